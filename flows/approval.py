"""What the texts will cost, shown before they are asked for, and a person's word where it is much."""

from __future__ import annotations

from typing import cast

from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.wording import table
from synthie.config import RunConfig
from synthie.money import usd
from synthie.pipeline import Run
from synthie.texts.estimate import Estimate

__all__ = ["Approval", "approve_texts", "estimate_page"]

_BASES = {
    "answers": "Measured on the answers at hand.",
    "tokenizer": "Input counted by the model's tokenizer, output reckoned by a rule of thumb.",
    "characters": "Reckoned by a rule of thumb.",
}
_WAIT_S = 7 * 86_400
_LOOK_S = 5


class Approval(RunInput):
    """The form that ends the pause: who sends it agrees to the amount in it."""

    max_usd: float


def approve_texts(config: RunConfig, above_usd: float | None) -> RunConfig:
    """Show the estimate of the texts; pause the flow run if they may cost more than ``above_usd``.

    Returns:
        The same run, ``max_usd`` as the form has it.

    Raises:
        SynthieError: see `synthie.texts.estimate.estimate_cost`.
        FlowPauseTimeout: nobody has answered for a week.
    """
    estimate = Run(config).estimate_cost()
    if estimate.rows_stored >= estimate.rows:
        return config
    page = estimate_page(estimate, config.max_usd)
    create_markdown_artifact(page, key="estimate", description="What the texts will cost")
    if above_usd is None or estimate.usd_high <= above_usd:
        return config
    form = Approval.with_initial_data(
        description=f"{page}\n\nResume to go on; cancel the run to leave it.",
        max_usd=Field(default=config.max_usd, ge=0, description="What the run may cost at most, in US dollars."),
    )
    answer = cast(Approval, pause_flow_run(wait_for_input=form, timeout=_WAIT_S, poll_interval=_LOOK_S))
    return config.model_copy(update={"max_usd": answer.max_usd})


def estimate_page(estimate: Estimate, max_usd: float) -> str:
    """The estimate as Markdown."""
    rows = [
        ("texts", f"{estimate.rows:,}"),
        ("stored already", f"about {estimate.rows_stored:,}"),
        ("model", estimate.model),
        ("input tokens", f"{estimate.input_tokens_low:,} to {estimate.input_tokens_high:,}"),
        ("output tokens", f"{estimate.output_tokens_low:,} to {estimate.output_tokens_high:,}"),
        ("cost", f"{usd(estimate.usd_low)} to {usd(estimate.usd_high)}"),
        ("the run's budget", usd(max_usd)),
    ]
    page = f"# What the texts will cost\n\n{table(('figure', 'value'), rows)}\n\n{_BASES[estimate.basis]}"
    page += " One try a text is reckoned with."
    if estimate.usd_high > max_usd:
        page += "\n\nThe budget may end the run before all texts are there; what it has is kept."
    return page
