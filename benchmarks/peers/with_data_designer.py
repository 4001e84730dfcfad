"""NeMo Data Designer: its own store, limiter and retries; it resumes where it can."""

from __future__ import annotations

import data_designer.config as dd
import pandas as pd
from client import KEY, Meter, read_job, report
from data_designer.config.run_config import ResumeMode
from data_designer.interface import DataDesigner

job = read_job()
meter = Meter()
users = job.users()
provider = dd.ModelProvider(name="local", endpoint=job.base_url, provider_type="openai", api_key=KEY)
model = dd.ModelConfig(
    alias="writer",
    model=job.model,
    provider="local",
    skip_health_check=True,
    inference_parameters=dd.ChatCompletionInferenceParams(
        temperature=1.0, max_tokens=job.max_tokens, max_parallel_requests=job.concurrency
    ),
)
builder = dd.DataDesignerConfigBuilder(model_configs=[model])
builder.with_seed_dataset(
    dd.DataFrameSeedSource(df=pd.DataFrame({"user": users})), sampling_strategy=dd.SamplingStrategy.ORDERED
)
builder.add_column(
    dd.LLMTextColumnConfig(name="text", model_alias="writer", system_prompt=job.system, prompt="{{ user }}")
)
designer = DataDesigner(artifact_path=job.folder, model_providers=[provider])
made = designer.create(builder, num_records=len(users), dataset_name="texts", resume=ResumeMode.IF_POSSIBLE)
report(job, meter, made.load_dataset()["text"])
