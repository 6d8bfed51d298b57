"""Which test images a report shows of segmentations: the worst, missed lesions, false positives, and typical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain, zip_longest

import numpy as np

from sonodistill.errors import UnreadableFileError
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.report.charts import Encoder, Pen
from sonodistill_training.evaluate.report.curves import where
from sonodistill_training.evaluate.report.pictures import Frames, NotTheseFramesError, Seen, example, legend
from sonodistill_training.evaluate.results import Result
from sonodistill_training.evaluate.tables.papers import data_name
from sonodistill_training.evaluate.tables.parts import Runs, labelled

KINDS = {
    "worst": ("Worst cases", "Something was found, and agrees least with the lesion."),
    "missed": ("Missed small lesions", "Nothing was found, or what was found has a Dice below 0.1; smallest first."),
    "false_positive": ("False positives on normals", "There is no lesion, and the largest areas were taken for one."),
    "typical": ("Typical cases", "The Dice nearest to the median of the lesions."),
}
PER_ENCODER, PER_KIND = {"worst": 6, "missed": 6, "false_positive": 6, "typical": 3}, 12
_MISSED_DICE = 0.1


@dataclass(frozen=True)
class Choice:
    """Images of one kind: names in the order they are shown, and how many there are in all."""

    images: tuple[str, ...]
    of: int


def choose(result: Result) -> dict[str, Choice]:
    """The images of a segmentation by kind (:data:`KINDS`), at most :data:`PER_ENCODER`; none is of two kinds.

    Missed lesions come smallest first; where several have the same Dice, the worst cases come with the largest lesion
    first.
    """
    dice, names = result.column("dice").astype(float), result.column("image").tolist()
    lesion, truth = result.column("lesion").astype(bool), result.column("truth_pixels").astype(np.int64)
    found = result.column("predicted_pixels").astype(np.int64)
    share = found / result.column("pixels")
    median = float(np.median(dice[lesion])) if lesion.any() else 0.0
    ranked = {
        "missed": (lesion & ((found == 0) | (dice < _MISSED_DICE)), (truth, dice)),
        "worst": (lesion & (found > 0), (dice, -truth)),
        "false_positive": (~lesion & (found > 0), (-share,)),
        "typical": (lesion, (np.abs(dice - median),)),
    }
    taken: set[str] = set()
    chosen = {}
    for kind, (belongs, keys) in ranked.items():
        order = np.lexsort((np.arange(len(names)), *reversed(keys)))
        fitting = [names[row] for row in order if belongs[row]]
        free = [name for name in fitting if name not in taken][: PER_ENCODER[kind]]
        taken.update(free)
        chosen[kind] = Choice(tuple(free), len(fitting))
    return {kind: chosen[kind] for kind in KINDS}


def merged(lists: Sequence[Sequence[str]], limit: int = PER_KIND) -> list[str]:
    """The first of each list, then the second of each, without repetition, up to the limit."""
    turns = chain.from_iterable(zip_longest(*lists))
    return list(dict.fromkeys(name for name in turns if name is not None))[:limit]


def compared(runs: Sequence[Runs]) -> list[list[Runs]]:
    """For each set of test images of a segmentation, the runs of every encoder that are shown.

    Of an encoder that was evaluated in several ways, fine-tuning comes first, then all labels, then the highest Dice.
    Encoders with inputs of another size have the same test images, though not the same ``data_sha256``.
    """
    groups: dict[tuple[str, tuple[tuple[str, int], ...]], dict[Encoder, list[Runs]]] = {}
    for one in runs:
        if one.cell.task == "segmentation":
            truth = one.results[0].column("truth_pixels").tolist()
            images = tuple(sorted(zip(one.results[0].column("image").tolist(), truth, strict=True)))
            ways = groups.setdefault((one.cell.data, images), {})
            ways.setdefault((one.cell.encoder, one.cell.weights), []).append(one)
    return [[max(several, key=_preference) for several in ways.values()] for ways in groups.values()]


def _preference(one: Runs) -> tuple[bool, bool, float, float]:
    dice = float(one.per_image("dice_empty1").mean())
    return one.cell.protocol == "finetune", not one.cell.shots, one.cell.fraction, dice


def gallery(runs: Sequence[Runs], pens: Mapping[Encoder, Pen], data: Mapping[str, LabelledSet]) -> str:
    """The galleries of all segmentations as HTML; where frames are not at hand, what gets them."""
    order = list(pens)
    parts = []
    for number, members in enumerate(compared(runs)):
        ordered = sorted(members, key=lambda one: order.index((one.cell.encoder, one.cell.weights)))
        parts.append(_of_data(ordered, pens, data.get(members[0].cell.data), f"g{number}"))
    return "".join(parts) or "<p>No segmentation is among the results.</p>"


def _of_data(runs: Sequence[Runs], pens: Mapping[Encoder, Pen], data: LabelledSet | None, key: str) -> str:
    name = runs[0].cell.data
    choices = [choose(one.results[0]) for one in runs]
    parts = [f'<h3 style="margin-top: 2em">{escape(data_name(name))}</h3>', _counts(runs, pens, choices)]
    if data is None:
        said = f"The frames of {name} are not at hand, so that none is shown."
        return "".join([*parts, _no_frames(said)])
    try:
        frames = Frames(data, key)
        seen = [Seen(pens[one.cell.encoder, one.cell.weights], one.results[0]) for one in runs]
        kinds = [_of_kind(kind, frames, seen, [choice[kind] for choice in choices]) for kind in KINDS]
    except NotTheseFramesError as error:
        return "".join([*parts, _no_frames(f"No frame is shown: {error.message}.")])
    except OSError as error:
        folders = ", ".join(one.results[0].folder.name for one in runs)
        raise UnreadableFileError(
            f"the predicted masks of {name} cannot be read ({error})",
            path=runs[0].results[0].folder.parent,
            remedy=f"remove what is damaged of the folders {folders} and run again",
        ) from error
    return "".join([*parts, legend(), *kinds])


def _of_kind(kind: str, frames: Frames, seen: Sequence[Seen], choices: Sequence[Choice]) -> str:
    title, said = KINDS[kind]
    images = merged([choice.images for choice in choices])
    if not images:
        return ""
    examples = []
    for image in images:
        names = [one.pen.name for one, choice in zip(seen, choices, strict=True) if image in choice.images]
        examples.append(example(frames, image, seen, f"Shown for {', '.join(names)}." if len(seen) > 1 else ""))
    return (
        f'<h4 style="margin: 1.6em 0 .2em">{escape(title)}</h4><p class="muted">{escape(said)}</p>{"".join(examples)}'
    )


def _counts(runs: Sequence[Runs], pens: Mapping[Encoder, Pen], choices: Sequence[Mapping[str, Choice]]) -> str:
    heads = (
        "Encoder",
        "Run that is shown",
        "Median Dice of lesions",
        f"Lesions of a Dice below {_MISSED_DICE:g}",
        "False positives on normals",
    )
    rows = []
    for one, choice in zip(runs, choices, strict=True):
        result, cell = one.results[0], one.results[0].cell
        lesion = result.column("lesion").astype(bool)
        drawn = f", draw {cell.draw}" if cell.shots or cell.fraction < 1 else ""
        median = f"{np.median(result.column('dice')[lesion]):.3f}" if lesion.any() else "no lesion"
        normals = int((~lesion).sum())
        false = f"{choice['false_positive'].of} of {normals}" if normals else "no normals"
        run = f"{where(cell)}, {labelled(cell)}, recipe {cell.recipe.name}{drawn}, seed {cell.seed}"
        entries = (run, median, f"{choice['missed'].of} of {int(lesion.sum())}", false)
        name = escape(pens[cell.encoder, cell.weights].name)
        columns = "".join(
            f'<td class="{"figure" if place else "note"}">{escape(e)}</td>' for place, e in enumerate(entries)
        )
        rows.append(f'<tr><th scope="row">{name}</th>{columns}</tr>')
    head = "".join(f'<th scope="col"{" class=figure" * (place > 1)}>{text}</th>' for place, text in enumerate(heads))
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="muted" style="margin-top: .8em">Of several runs the first is shown, whatever its result.</p>'
    )


def _no_frames(said: str) -> str:
    return (
        f'<aside class="notice"><p>{escape(said)} To see them, run <code>sonodistill evaluate run</code> again with '
        "the same <code>--out</code> and this data set: results that are there are not computed again, frames are kept "
        "beside them, and this report is written anew.</p></aside>"
    )
