"""The same work in Frostline and in the libraries that people use for it: time, memory and accuracy of whole processes.

    python benchmarks/compare_peers.py --work W1 W2 --measure-epochs 1 3
    python benchmarks/compare_peers.py --work W3 --resume          (go on after an interruption)
    python benchmarks/report.py docs/performance.json docs/        (table and picture)

Each peer runs in a virtual environment of its own, made on first use (several GB each). Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import folders
import results
import watching
import work
from work import Job

BATCH_SIZE = 32


@dataclass(frozen=True)
class Workbench:
    """Where a benchmark lives: its folder, the Python of each environment, the folders of images."""

    folder: Path
    pythons: Mapping[str, Path]
    sources: Mapping[str, Path]
    scripts: Path = environments.PEERS

    def weights(self, arch: str) -> Path:
        return self.folder / "weights" / f"{arch}.safetensors"

    def data(self, job: Job) -> Path:
        return self.folder / "data" / job.unit.data

    def store(self, job: Job) -> Path:
        """The second fit finds what the first one of the same repetition has stored; all others start from nothing."""
        who = job.unit.first_fit if job.who == work.AGAIN else job.who
        return self.folder / "stores" / f"{job.unit.name}-{who}-{job.repeat}"

    def run(self, job: Job) -> Path:
        return self.folder / "runs" / "-".join(str(part) for part in job.key)


def command(job: Job, place: Workbench) -> list[str]:
    """What is run and measured."""
    python = str(place.pythons[job.environment])
    if job.environment == "frostline":
        return [python, *frostline_arguments(job, place)]
    unit = job.unit
    script = place.scripts / f"{environments.SCRIPTS[job.environment]}.py"
    words = [python, str(script), "--data", str(place.data(job)), "--arch", unit.arch]
    words += ["--weights", str(place.weights(unit.arch)), "--train", unit.train]
    return [*words, "--epochs", str(job.epochs), "--batch-size", str(BATCH_SIZE)]


def frostline_arguments(job: Job, place: Workbench) -> list[str]:
    words = ["-m", "frostline", "fit", str(place.data(job)), "--json", "--plan"]
    words += [str(write_plan(job, place)) if job.epochs else "probe"]
    words += ["--store", str(place.store(job)), "--out", str(place.run(job))]
    if job.unit.arch != work.LITE:
        words += ["--backbone", f"torchvision:{job.unit.arch}", "--weights", str(place.weights(job.unit.arch))]
    return [*words, "--seed", "1"] if job.who == work.AGAIN else words


def write_plan(job: Job, place: Workbench) -> Path:
    """As many epochs as the peers train, none cut short; a stage is trained from a solved head."""
    trained = f"epochs: {job.epochs}, patience: {job.epochs}, batch_size: {BATCH_SIZE}, views: 1"
    phases = [] if job.unit.train == "head" else ["- {frostline: head, epochs: 0}"]
    phases += [f"- {{frostline: {job.unit.train}, {trained}, lr: 0.001, optimizer: adam}}"]
    file = place.folder / "plans" / f"{job.unit.name}-{job.epochs}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("phases:\n" + "".join(f"  {phase}\n" for phase in phases))
    return file


def measure(job: Job, place: Workbench) -> dict[str, Any]:
    """One run, as it is kept; one that failed says why instead of what came out."""
    prepare(job, place)
    words = command(job, place)
    log = place.folder / "logs" / place.run(job).name
    log.parent.mkdir(parents=True, exist_ok=True)
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    name, who, epochs, repeat = job.key
    kept: dict[str, Any] = {"work": name, "who": who, "epochs": epochs, "repeat": repeat}
    kept |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    kept |= {"command": [without_paths(word, place) for word in words]}
    watched = watching.watch(words, out, err, environments.surroundings(place.folder))
    kept |= {"seconds": round(watched.seconds, 3), "peak_bytes": watched.peak_bytes}
    try:
        if watched.code:
            raise ValueError(results.last_line(err.read_text(errors="replace")) or f"exit code {watched.code}")
        kept |= outcome(job, results.last_json(out.read_text(errors="replace")))
    except (ValueError, KeyError) as error:
        return kept | {"failed": without_paths(str(error), place)}
    if job.environment == "frostline":
        kept["store_bytes"] = folders.size_of(place.store(job))
    return kept


def prepare(job: Job, place: Workbench) -> None:
    """An empty store for what is measured from nothing, a full one for the second fit, and no run of before."""
    shutil.rmtree(place.run(job), ignore_errors=True)
    if job.environment != "frostline":
        return
    place.run(job).parent.mkdir(parents=True, exist_ok=True)
    if job.who != work.AGAIN:
        shutil.rmtree(place.store(job), ignore_errors=True)
    elif not place.store(job).is_dir():  # resumed between the two: fill it, unmeasured
        first = Job(job.unit, job.unit.first_fit, job.epochs, job.repeat)
        shutil.rmtree(place.run(first), ignore_errors=True)
        subprocess.run(command(first, place), check=False, capture_output=True)


def outcome(job: Job, answered: Mapping[str, Any]) -> dict[str, Any]:
    """What a run found, in the same words for all."""
    if job.environment == "frostline":
        return {"accuracy": answered["valid"]["accuracy"], "validation_images": answered["valid"]["n"]}
    return {"accuracy": answered["accuracy"]} | {name: value for name, value in answered.items() if name != "accuracy"}


def without_paths(text: str, place: Workbench) -> str:
    """Where somebody keeps his files is nobody's business: paths relative to the benchmark and the repository."""
    for name, python in place.pythons.items():
        text = text.replace(str(python), f"{name}/python")
    return text.replace(str(place.folder), ".bench").replace(str(environments.ROOT), ".")


def warm_up(place: Workbench, name: str) -> None:
    """Start a library once, unmeasured: its files come from memory then, for all alike, whatever ran before."""
    script = ["-c", "import frostline.gallery, frostline.fitting"]
    if name != "frostline":
        script = [str(place.scripts / f"{environments.SCRIPTS[name]}.py"), "--help"]
    known = environments.surroundings(place.folder)
    subprocess.run([str(place.pythons[name]), *script], check=False, capture_output=True, env=known)


def run_all(jobs: Sequence[Job], place: Workbench, file: Path, document: results.Document) -> None:
    for number, job in enumerate(jobs, 1):
        warm_up(place, job.environment)
        run = measure(job, place)
        results.forget(document, [job.key])
        document["runs"].append(run)
        results.write(document, file)
        predicted = (
            run.get("failed") or f"{run['seconds']:.1f} s, {run['peak_bytes'] / 1e6:.0f} MB, {run['accuracy']:.4f}"
        )
        shown = (
            f"{job.unit.name} {job.who}{f', {job.epochs} epochs' if job.epochs else ''}, repetition {job.repeat + 1}"
        )
        print(f"[{number}/{len(jobs)}] {shown}: {predicted}", file=sys.stderr, flush=True)


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Frostline and its peers on the same work.")
    parser.add_argument("--work", nargs="+", default=["W1", "W2", "W3", "W4", "W5"], metavar="UNIT")
    parser.add_argument("--peers", nargs="+", choices=environments.SCRIPTS, default=list(environments.SCRIPTS))
    parser.add_argument("--repeat", type=int, default=3, help="runs of everybody (3)")
    parser.add_argument(
        "--measure-epochs", type=int, nargs=2, default=[], metavar=("FEW", "MORE"), help="peers run these, not all"
    )
    parser.add_argument("--resume", action="store_true", help="keep the runs that are in the file")
    parser.add_argument("--out", type=Path, default=environments.ROOT / "docs" / "performance.json")
    parser.add_argument("--folder", type=Path, default=environments.ROOT / ".bench")
    parser.add_argument("--env", nargs="+", action="extend", default=[], metavar="NAME=PYTHON")
    shared = os.environ.get("FROSTLINE_SHARED", environments.ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=shared, help="holds data/hymenoptera and data/MNIST")
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    args = parser.parse_args(words)
    if args.measure_epochs and not 0 < args.measure_epochs[0] < args.measure_epochs[1]:
        parser.error("--measure-epochs takes two numbers of epochs, the smaller one first")
    return args


def given_pythons(pairs: Sequence[str]) -> dict[str, Path]:
    given = dict(pair.partition("=")[::2] for pair in pairs)
    for name, python in given.items():
        if name not in environments.SCRIPTS or not Path(python).is_file():
            raise SystemExit(f"--env {name}={python}: NAME=PYTHON is wanted, NAME of {', '.join(environments.SCRIPTS)}")
    return {name: Path(python).absolute() for name, python in given.items()}


def set_up(args: argparse.Namespace, jobs: Sequence[Job]) -> Workbench:
    """Environments, weights and images for these runs; what is there already is kept."""
    folder = args.folder.absolute()
    given = given_pythons(args.env)
    needed = dict.fromkeys([*(job.environment for job in jobs), "frostline"])  # Frostline writes the weights for all
    pythons = {name: environments.interpreter(name, folder, given) for name in needed}
    shared = args.shared.absolute() / "data"
    sources = {"hymenoptera": shared / "hymenoptera", "mnist": shared / "MNIST" / "raw", "fashion": args.fashion_mnist}
    place = Workbench(folder, pythons, sources)
    if not all(place.weights(arch).is_file() for arch in (work.LITE, work.RESNET)):
        script = environments.ROOT / "benchmarks" / "weights.py"
        subprocess.run([str(pythons["frostline"]), str(script), str(folder / "weights")], check=True)
    for name in dict.fromkeys(job.unit.data for job in jobs):
        folders.make_folder(name, folder / "data", sources)
    return place


def main() -> None:
    args = read_arguments()
    document = results.open_document(args.out, environments.machine())
    units = work.chosen_units(args.work)
    asked = [job for unit in units for job in work.jobs(unit, args.repeat, args.measure_epochs, args.peers)]
    kept = results.done(document) if args.resume else set()
    jobs = [job for job in asked if job.key not in kept]
    if not jobs:
        raise SystemExit("nothing is left to be measured")
    place = set_up(args, jobs)
    document["versions"] |= {name: environments.versions(python) for name, python in place.pythons.items()}
    if not args.resume:
        names = {unit.name for unit in units}
        old = [run for run in document["runs"] if run["work"] in names and run["who"].partition("-")[0] in args.peers]
        results.forget(document, [results.key(run) for run in old])
    run_all(jobs, place, args.out, document)


if __name__ == "__main__":
    main()
