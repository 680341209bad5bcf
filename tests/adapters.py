"""A student with an adapter that has learned something, for tests of LoRA."""

import torch

from longrl.config import LoraSettings
from longrl.models.base import Student
from longrl.models.lora import add_lora

LORA = LoraSettings(rank=4, alpha=8)


def with_adapter(student: Student, settings: LoraSettings = LORA, seed: int = 5, spread: float = 0.1) -> Student:
    """Give the student an adapter whose B is random instead of zero."""
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    student.freeze("tower", "projector")
    add_lora(student, settings)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, spread, generator=random)
    return student
