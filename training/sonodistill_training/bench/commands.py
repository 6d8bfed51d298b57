"""Command line of the benchmarks: each prints a table, or with --json one JSON object as its last line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True, rich_markup_mode=None)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]


@app.callback()
def _group() -> None:
    """Measure speed on this machine."""


@app.command()
def loader(
    corpus: Annotated[
        Optional[Path],  # noqa: UP045 - Typer reads annotations at run time on Python 3.10
        typer.Option(exists=True, help="A corpus, or ultrasound files to make one of; simulated when not given."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="The median of so many counts.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Views a batch.")] = 256,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Augmented views a second that one core makes from shards, beside MONAI's dictionary transforms on PNG files.

    Example: sonodistill bench loader --json
    """
    from sonodistill_training.bench.loader import bench_loader
    from sonodistill_training.bench.report import show

    show(bench_loader(corpus, rounds=rounds, batch_size=batch_size, seed=seed), as_json)


@app.command()
def corpus(
    clips: Annotated[int, typer.Option(min=1, help="Cine loops of the timed builds.")] = 8,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each.")] = 4000,
    long_clip: Annotated[int, typer.Option(min=2, help="Frames of the loop whose memory is measured.")] = 10_000,
    signatures: Annotated[int, typer.Option(min=1000, help="Among which near-duplicates are searched.")] = 162_000,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Frames a second and core of a build from JPEG cine, scaling to two workers, memory, near-duplicate search.

    Example: sonodistill bench corpus --json
    """
    from sonodistill_training.bench.corpus import bench_corpus
    from sonodistill_training.bench.report import show

    show(bench_corpus(clips=clips, frames=frames, long_clip=long_clip, signatures=signatures, seed=seed), as_json)


@app.command()
def shards(
    corpus: Annotated[Path, typer.Argument(exists=True, help="A corpus, whose frames are written in each format.")],
    count: Annotated[int, typer.Option(min=1, help="Frames.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="The median of so many counts.")] = 3,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Size and speed of the formats that a corpus could be kept in (those that are installed).

    Example: sonodistill bench shards frames.pack
    """
    from sonodistill_training.bench.formats import bench_formats
    from sonodistill_training.bench.report import show

    show(bench_formats(corpus, count=count, rounds=rounds, seed=seed), as_json)


@app.command()
def distill(
    data: Annotated[list[str], typer.Argument(help="A corpus, or ultrasound files or folders.")],
    student: Annotated[str, typer.Option(help="Any timm encoder.")] = "resnet18",
    teacher: Annotated[str, typer.Option(help="As for `sonodistill distill`.")] = "dinov2_vits14",
    input_size: Annotated[int, typer.Option(help="Pixels.")] = 196,
    batch_size: Annotated[int, typer.Option(min=2, help="Views a step.")] = 64,
    steps: Annotated[int, typer.Option(min=4, help="Timed steps of a round.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Of which all steps count.")] = 2,
    peer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(exists=True, help="Python of an environment with lightly-train, which is then timed in turns."),
    ] = None,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Images a second of a distillation, its overhead over bare computation, bf16 beside fp32, and a peer.

    Example: sonodistill bench distill frames/ --peer peer/bin/python --json
    """
    from sonodistill_training.bench.distill import Setup, bench_distill
    from sonodistill_training.bench.report import show

    setup = Setup(student, teacher, input_size, batch_size, steps, rounds, seed)
    show(bench_distill(data, setup, peer), as_json)


@app.command()
def pretrain(
    data: Annotated[list[str], typer.Argument(help="A corpus, or ultrasound files or folders.")],
    network: Annotated[str, typer.Option(help="timm name of a plain ViT.")] = "vit_small_patch16_224",
    input_size: Annotated[int, typer.Option(help="Pixels of a global view.")] = 224,
    local_size: Annotated[int, typer.Option(help="Pixels of a local view.")] = 96,
    local_views: Annotated[int, typer.Option(min=0, help="Of each frame.")] = 8,
    batch_size: Annotated[int, typer.Option(min=2, help="Frames a step.")] = 64,
    prototypes: Annotated[int, typer.Option(min=2, help="Of the heads.")] = 65536,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the heads.")] = 2048,
    steps: Annotated[int, typer.Option(min=2, help="That are timed.")] = 12,
    workers: Annotated[int, typer.Option(help="Loading processes; -1: none on a CPU, else 8.")] = -1,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Frames a second of a self-distillation, its step rate beside bare computation's, and its memory.

    Example: sonodistill bench pretrain frames/ --json
    """
    from sonodistill_training.bench.pretrain import Setup, bench_pretrain
    from sonodistill_training.bench.report import show

    setup = Setup(
        network=network,
        input_size=input_size,
        local_size=local_size,
        local_views=local_views,
        batch_size=batch_size,
        prototypes=prototypes,
        hidden=hidden,
        steps=steps,
        workers=workers,
        seed=seed,
    )
    show(bench_pretrain(data, setup), as_json)


@app.command()
def finetune(
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="NAME=FOLDER of a labelled set, as for `sonodistill evaluate`; simulated when not given."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Any timm encoder.")] = "resnet18",
    input_size: Annotated[int, typer.Option(help="Pixels; a multiple of 32.")] = 256,
    batch_size: Annotated[int, typer.Option(min=2, help="Frames a step.")] = 32,
    frames: Annotated[int, typer.Option(min=6, help="Of an epoch, at most.")] = 480,
    parts: Annotated[int, typer.Option(min=1, help="That an epoch is timed in, the pipelines taking turns.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes of MONAI's loader.")] = 2,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """An epoch of fine-tuning a U-Net from frames in memory, beside MONAI's dictionary transforms and loader on files.

    Example: sonodistill bench finetune --data ddti=/data/DDTI --json
    """
    from sonodistill_training.bench.finetune import Setup, bench_finetune
    from sonodistill_training.bench.report import show

    name, _, folder = (data or "").partition("=")
    setup = Setup(encoder, input_size, batch_size, frames, parts, workers, seed)
    show(bench_finetune(name, Path(folder) if folder else None, setup), as_json)


@app.command()
def deploy(
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for deploy.json, deploy.md and the plot (PNG, SVG)."),
    ] = None,
    network: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="ENCODER or ENCODER+HEAD, in the place of the default ones: any timm encoder, or teacher."),
    ] = None,
    runtime: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Row of the table (eager, onnxruntime, openvino-int8 ...); all of them when not given."),
    ] = None,
    input_size: Annotated[int, typer.Option(min=32, help="Pixels; a multiple of 32.")] = 224,
    threads: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(min=1, help="Of the processor; 1 and 2 when not given."),
    ] = None,
    batches: Annotated[str, typer.Option(help="Images at once, for throughput.")] = "1,8,32",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each worker.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda; on cuda only torch computes.")] = "cpu",
    frames: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(exists=True, help="Ultrasound files, folders or a corpus that int8 is calibrated with."),
    ] = None,
    trained: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=FILE of a trained segmenter (.safetensors), measured too."),
    ] = None,
    labelled: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="NAME=FOLDER of a labelled set, on whose test split the trained ones are judged."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what takes long: see `left out` in the table.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A look: a ResNet-18 U-Net at 64 pixels, few calls.")] = False,
    as_json: _Json = False,
) -> None:
    """Operations, latency, throughput, memory and Dice of teacher and students in every runtime, as in Table 5.

    Each runtime computes in a process of its own and is loaded from the file that `sonodistill export` would write.

    Example: sonodistill bench deploy --out deploy --trained r50=model.safetensors --labelled busi=/data/BUSI
    """
    from sonodistill_training.bench.deploy.options import setup_of
    from sonodistill_training.bench.deploy.run import bench_deploy
    from sonodistill_training.bench.deploy.write import show_deploy, write_deploy

    setup = setup_of(
        networks=network,
        runtimes=runtime,
        input_size=input_size,
        threads=threads,
        batches=batches,
        rounds=rounds,
        device=device,
        frames=frames,
        trained=trained,
        labelled=labelled,
        everything=everything,
        quick=quick,
    )
    result = bench_deploy(setup)
    if out is not None:
        write_deploy(result, out)
    show_deploy(result, as_json)


@app.command()
def dicom(
    runtime: Annotated[str, typer.Option(help="Of the inference.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="Of the inference: fp32, bf16, or auto.")] = "fp32",
    threads: Annotated[int, typer.Option(min=0, help="Of the inference; 0 lets the runtime choose.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="The median of so many.")] = 5,
    drain: Annotated[int, typer.Option(min=0, help="Small instances in a queue that is drained, too.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A look: few small things, once.")] = False,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """A cine analysed beside its bare inference, decoding, receiving, and the wait for a result of the service.

    Example: sonodistill bench dicom --json
    """
    from sonodistill_training.bench.dicom.run import bench_dicom
    from sonodistill_training.bench.dicom.setup import Setup
    from sonodistill_training.bench.report import show

    changes = {"runtime": runtime, "precision": precision, "threads": threads, "drain": drain, "seed": seed}
    setup = Setup.quick(**changes) if quick else Setup(rounds=rounds, **changes)
    show(bench_dicom(setup), as_json)


@app.command("active-learning")
def active_learning(
    data: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=FOLDER of a set with masks, as for `sonodistill evaluate`; simulated when not given."),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="A weights file, or as for `sonodistill evaluate run`; untrained when not given.")
    ] = "R18-Rand",
    strategy: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Of `sonodistill label`; all of them when not given."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each strategy, each on other test frames.")] = 5,
    rounds: Annotated[str, typer.Option(help="Labelled frames after each batch.")] = "5,10,20,40,80,160",
    input_size: Annotated[int, typer.Option(min=32, help="Pixels; a multiple of 32.")] = 224,
    frames: Annotated[int, typer.Option(min=20, help="Simulated ones, where no data is given.")] = 240,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for active_learning.json, .md and the plot; the same one again goes on."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Dice against labelled frames for each strategy of choosing them, the labels being known; on one core.

    Example: sonodistill bench active-learning --data busi=/data/BUSI --encoder student.safetensors --out curves
    """
    from sonodistill.annotate.acquire.strategies import STRATEGIES
    from sonodistill_training.bench.active_learning.run import bench_active_learning
    from sonodistill_training.bench.active_learning.setup import setup_of
    from sonodistill_training.bench.active_learning.write import show_active_learning, write_active_learning

    setup = setup_of(
        data=data or (),
        encoder=encoder,
        strategies=strategy or tuple(STRATEGIES),
        seeds=seeds,
        rounds=rounds,
        input_size=input_size,
        simulated=frames,
    )
    result = bench_active_learning(setup, out)
    if out is not None:
        write_active_learning(result, out)
    show_active_learning(result, as_json)


@app.command()
def label(
    rounds: Annotated[int, typer.Option(min=4, help="Requests of each kind.")] = 100,
    threads: Annotated[int, typer.Option(min=0, help="Of the inference; 0 lets the runtime choose.")] = 1,
    input_size: Annotated[int, typer.Option(min=32, help="Pixels; a multiple of 32.")] = 256,
    clips: Annotated[int, typer.Option(min=1, help="Of the pool that the next sample is chosen from.")] = 100,
    frames: Annotated[int, typer.Option(min=1, max=128, help="Of each clip of the pool.")] = 100,
    quick: Annotated[bool, typer.Option("--quick", help="A look: a tiny network, few frames and requests.")] = False,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """What annotators wait for, over HTTP: a mask, a click, the next sample, a label written, and the server's start.

    Needs MONAI Label: pip install 'sonodistill[label]'.

    Example: sonodistill bench label --json
    """
    from sonodistill_training.bench.label.run import bench_label
    from sonodistill_training.bench.label.setup import Setup
    from sonodistill_training.bench.report import show

    if quick:
        setup = Setup.quick(threads=threads, seed=seed)
    else:
        setup = Setup(rounds, threads, input_size, clips=clips, frames=frames, seed=seed)
    show(bench_label(setup), as_json)


@app.command()
def slicer(
    frames: Annotated[int, typer.Option(min=2, help="Of the cine, 480 x 640.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Of browsing and of each plane; the quickest counts.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="A look: few small frames.")] = False,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """The Slicer extension in the core of 3D Slicer: masks written, a cine with masks browsed, oblique planes cut.

    Needs slicer-core: pip install slicer-core.

    Example: sonodistill bench slicer --json
    """
    from sonodistill_training.bench.report import show
    from sonodistill_training.bench.slicer import Setup, bench_slicer

    show(bench_slicer(Setup.quick(seed) if quick else Setup(frames, rounds=rounds, seed=seed)), as_json)


if __name__ == "__main__":
    app()
