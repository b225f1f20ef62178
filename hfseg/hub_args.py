"""Options for the Hub: they belong to one run of one user, and are never saved with a model."""

from dataclasses import dataclass, field, fields
from typing import Any

from hfseg.errors import InputError


def _option(help: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class HubArguments:
    """Mixed into TrainingArguments, some of whose keys it gives another meaning."""

    push_to_hub: bool = _option("Push each new best model to the Hub, while training goes on.", False)
    hub_model_id: str | None = _option("Repo on the Hub, user/name; unset: the name of output_dir, in your namespace.")
    hub_private_repo: bool | None = _option("Make that repo a private one; a public one is then refused.")
    hub_token: str | None = _option("Token for the Hub; unset: that of `hf auth login` or HF_TOKEN. Never saved.")
    hub_checkpoints: bool = _option("Also keep the newest checkpoint there, in the branch checkpoint.", True)
    hub_required: bool = _option("End with code 1 when the best model has not reached the Hub.", False)
    resume_from_hub: bool = _option("Go on from the checkpoint in hub_model_id; afresh where it has none.", False)

    def __post_init__(self) -> None:
        # Trainer's own pushes swallow errors and skip saves; hfseg.push_queue sends the best bundle in their place.
        for name, default in (("hub_strategy", "every_save"), ("hub_always_push", False), ("hub_revision", None)):
            if (value := getattr(self, name)) != default:
                raise InputError(f"{name} is {value!r}, but is not used here: each new best model is pushed to main.")
        self.push_best, self.push_to_hub = bool(self.push_to_hub), False
        if self.resume_from_hub and self.resume_from_checkpoint is not None:  # type: ignore[attr-defined]
            raise InputError("resume_from_hub and resume_from_checkpoint exclude each other: give one of them.")
        super().__post_init__()  # type: ignore[misc]


HUB_KEYS = tuple(f.name for f in fields(HubArguments))
