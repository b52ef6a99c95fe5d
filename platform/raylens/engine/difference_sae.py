"""The score method ``difference_sae``: an SAE of the differences between two models' activations.

After Kumar, "Activation differences reveal backdoors: a comparison of SAE architectures" (arXiv 2605.07324): read the
same text with both models, subtract the activations at one hook point, and train an SAE on the differences. Drift that
a fine-tune brings to every token goes into the decoder's bias; what it does on some occasions becomes latents. A
BatchTopK SAE (Bussmann, Leask and Nanda, 2024) is trained here, by sae-lens.

Lengths are counted in r, the root mean square of the differences' lengths, so that it is no matter how far the
candidate has moved altogether. A latent fires on a prompt as strongly as on its strongest token. A prompt's figure is
the largest, over latents, of how much more strongly a latent fires on it than on the median prompt; the score is the
mean of these over prompts. A latent that fires on all prompts alike, as those of a new style do, adds nothing.

It sees only what the text brings out: a trigger that no prompt holds leaves no trace here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
from sae_lens.config import SAETrainerConfig
from torch import Tensor

from raylens.audit.draws import SEED
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.readings import PromptTokens
from raylens.engine.sae_building import to_inference
from raylens.engine.tap import tap
from raylens.errors import InputError, MismatchError, RunError
from raylens.ids import HookPoint

_MOST_LATENTS: Final = 4096


@dataclass(frozen=True, slots=True)
class DifferenceSaeSettings:
    """How the SAE is trained. With these, and 24 prompts, pico takes 1.5 s of one core.

    Attributes:
        latents: None for twice the width, and at most 4 096.
        k: Active latents a token, on average.
        steps: Optimizer steps.
        batch_size: Tokens a step, drawn anew each time.
        learning_rate: Of Adam; halved evenly to a tenth over the last half of the steps.
        seed: Of its beginning and of the batches.
    """

    latents: int | None = None
    k: int = 8
    steps: int = 250
    batch_size: int = 256
    learning_rate: float = 2e-3
    seed: int = SEED


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceSaeScore:
    """What :func:`difference_sae` found.

    Attributes:
        value: Mean of ``per_prompt``; 0 where nothing differs.
        per_prompt: float64 ``[prompts]``, in r.
        latent: int64 ``[prompts]``: which latent that is of each.
        position: int64 ``[prompts]``: where it fires.
        r: Root mean square of the differences' lengths, in units of the activations.
        fvu: Fraction of the differences' variance that the SAE leaves unexplained.
        l0: Latents that fire on a token, on average.
    """

    value: float
    per_prompt: NDArray[np.float64]
    latent: NDArray[np.int64]
    position: NDArray[np.int64]
    r: float
    fvu: float
    l0: float


def read_activations(loaded: LoadedModel, hook: HookPoint, texts: Sequence[PromptTokens]) -> list[NDArray[np.float32]]:
    """Activations ``[tokens, width]`` at ``hook`` of each text, one forward pass a text.

    Raises:
        UnknownNameError: The model has no such point.
        RunError: They are NaN or infinite.
        OutOfMemoryError: A text does not fit.
    """
    found = []
    for text in texts:
        acts = tap(loaded, [hook], torch.tensor([list(text.ids)]))[hook][0].float().cpu().numpy()
        if not np.isfinite(acts).all():
            raise RunError(
                f"the activations of {loaded.name} at {hook} are not all finite numbers.",
                hint="the model overflowed; load it with --dtype bfloat16 or float32.",
            )
        found.append(acts)
    return found


def activation_differences(
    reference: Sequence[NDArray[np.float32]], candidate: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Candidate − reference of each text.

    Raises:
        MismatchError: They are of other texts, or of another width.
    """
    ours, theirs = ([acts.shape for acts in side] for side in (reference, candidate))
    if ours != theirs:
        raise MismatchError(
            f"the reference was read on {len(ours)} texts of {sum(shape[0] for shape in ours)} tokens, the candidate "
            f"on {len(theirs)} of {sum(shape[0] for shape in theirs)}.",
            hint="read both on the same token ids.",
        )
    return [after - before for before, after in zip(reference, candidate, strict=True)]


def difference_sae(
    differences: Sequence[NDArray[np.float32]],
    settings: DifferenceSaeSettings | None = None,
    *,
    more: Sequence[NDArray[np.float32]] = (),
    device: torch.device | str = "cpu",
) -> DifferenceSaeScore:
    """Train an SAE on differences of activations, and say how strongly it fires on single prompts.

    The same differences, settings and device give the same result. The first position of each text is left out.

    Args:
        differences: ``[tokens, width]`` a prompt.
        settings: How to train.
        more: Of further text, to train on only.
        device: Where to train.

    Raises:
        InputError: There is no prompt, or a difference is NaN or infinite.
        OutOfMemoryError: It does not fit.
    """
    settings = settings or DifferenceSaeSettings()
    prompts = [_without_first(rows) for rows in differences]
    if not prompts:
        raise InputError("there is no prompt to score.", hint="give a suite with prompts.")
    rows = np.concatenate([*prompts, *(_without_first(rows) for rows in more)])
    if not np.isfinite(rows).all():
        raise InputError("differences of activations are NaN or infinite.", hint="try --dtype float32.")
    r = float(np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1).mean())) if len(rows) else 0.0
    if r == 0.0:
        nothing = np.zeros(len(prompts))
        return DifferenceSaeScore(0.0, nothing, nothing.astype(np.int64), nothing.astype(np.int64), 0.0, 0.0, 0.0)
    width = rows.shape[1]
    scaled = torch.from_numpy(rows).to(device) * (width**0.5 / r)  # sae-lens's learning rates suit this length
    with memory_advice("training an SAE of differences", device), _own_randomness(settings.seed, scaled.device):
        sae = _train(scaled, settings)
    sae.to(scaled.device)
    strongest, position, l0, fvu = _codes(sae, scaled, [len(prompt) for prompt in prompts])
    strongest /= width**0.5
    excess = strongest - np.median(strongest, axis=0)
    latent = excess.argmax(axis=1)
    at = np.arange(len(prompts))
    # What was left out comes back into the count, where a text had anything beside it.
    skipped = np.array([len(whole) - len(prompt) for whole, prompt in zip(differences, prompts, strict=True)])
    return DifferenceSaeScore(
        value=float(excess[at, latent].mean()),
        per_prompt=excess[at, latent],
        latent=latent,
        position=position[at, latent] + skipped,
        r=r,
        fvu=fvu,
        l0=l0,
    )


def _train(rows: Tensor, settings: DifferenceSaeSettings) -> SAE[Any]:
    width = rows.shape[1]
    latents = settings.latents or min(2 * width, _MOST_LATENTS)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=width,
            d_sae=latents,
            k=min(settings.k, latents),
            device=str(rows.device),
            apply_b_dec_to_input=True,
            normalize_activations="none",
            topk_threshold_lr=0.05,  # by default it takes longer to settle than training here lasts
        )
    )
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(dim=0))
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=settings.steps * settings.batch_size,
            train_batch_size_samples=settings.batch_size,
            lr=settings.learning_rate,
            lr_end=settings.learning_rate / 10,
            lr_warm_up_steps=settings.steps // 20,
            lr_decay_steps=settings.steps // 2,
            device=str(rows.device),
            autocast=False,
            dead_feature_window=max(1, settings.steps // 5),
        ),
        sae,
        _batches(rows, settings),
    )
    for batch in _batches(rows, settings):
        trainer.step(batch)
        trainer.n_training_steps += 1
    return to_inference(sae)


def _batches(rows: Tensor, settings: DifferenceSaeSettings) -> Iterator[Tensor]:
    rng = np.random.default_rng(settings.seed)
    for _ in range(settings.steps):
        yield rows[torch.from_numpy(rng.integers(0, len(rows), settings.batch_size)).to(rows.device)]


def _codes(
    sae: SAE[Any], rows: Tensor, lengths: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64], float, float]:
    """Each prompt's strongest activations ``[prompts, latents]``, where they are, and L0 and FVU over all rows."""
    strongest, position = [], []
    with torch.inference_mode():
        acts = sae.encode(rows)
        left = (rows - sae.decode(acts)).double().square().sum()
        fvu = float(left / (rows - rows.mean(dim=0)).double().square().sum().clamp(min=1e-30))
        l0 = float((acts > 0).sum()) / len(rows)
        for part in acts.split([*lengths, len(rows) - sum(lengths)])[: len(lengths)]:
            best = part.max(dim=0) if len(part) else None
            zeros = torch.zeros(acts.shape[1])
            strongest.append((zeros if best is None else best.values).double().cpu().numpy())
            position.append((zeros.long() if best is None else best.indices).cpu().numpy())
    return np.stack(strongest), np.stack(position), l0, fvu


def _without_first(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first token is an attention sink, and a fine-tune does there what it does nowhere else."""
    return rows[1:] if len(rows) > 1 else rows


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators as if freshly seeded, and afterwards as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
