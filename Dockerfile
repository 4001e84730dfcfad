# synthie with Prefect: the image of server, worker and single commands; compose.yaml runs them.
#   docker build -t synthie .
#   docker build -t synthie --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .   without CUDA
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=train
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/synthie
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY kg kg
COPY synthie synthie
COPY flows flows
COPY prompts prompts
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/synthie/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 synthie \
 && install --directory --owner synthie /app/data/runs /home/synthie/.prefect
COPY --from=build /opt/synthie /opt/synthie
WORKDIR /app
COPY prefect.yaml prefect.toml ./
COPY data/sample data/sample
COPY data/configs data/configs
ENV PATH=/opt/synthie/bin:$PATH \
    PREFECT_HOME=/home/synthie/.prefect \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PYTHONUNBUFFERED=1
USER synthie
VOLUME /app/data/runs
CMD ["synthie", "--help"]
