"""The file formats that coverage_fuzz.py changes: each as a reader, and as what of its files the fuzzer changes.

A target takes an empty folder and returns (path that every refusal must name, function that writes a changed content,
function that reads the files, contents to begin with). Where a checksum or a header of lengths would refuse nearly
every change, only what lies behind it is changed. Where a format consists of several files, the first byte of the
content says which, and the others are that file.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from unittest import mock

import numpy as np
import torch

from accel import PatchVAE
from accel.commands.report import run_record
from accel.data import arrays, cifar, listing, packed, sources
from accel.data.folders import list_folder
from accel.data.published import INDOOR_LISTS, PLACES_IMAGES, PLACES_LISTS, PUBLISHED
from accel.evaluation import fine_tuning
from accel.evaluation.transfer import transfer
from accel.figures.report import html_report
from accel.models.classifier import load_torchvision
from accel.models.encoder import PRESETS, Preset
from accel.models.release import read_release
from accel.models.storage import load_safetensors, load_tensors, safetensors_to_bytes
from accel.training import TrainingConfig, checkpoint, loop, record
from accel.training.protocols import TransferConfig
from tests.data.test_cifar import pickled
from tests.faults.common import SMALL, accepted, save
from tests.faults.test_found import OneUnit, a_release, folder_of_images
from tests.training.tiny import tiny_dataset


def one_of(files):
    """(write, contents) for several files: a byte says which is changed, the others keep what they hold now."""
    whole = {path: path.read_bytes() for path in files}
    changed = []

    def write(content):
        while changed:
            path = changed.pop()
            path.write_bytes(whole[path])
        if content:
            changed.append(files[content[0] % len(files)])
            changed[0].write_bytes(content[1:])

    return write, [bytes([index]) + before for index, before in enumerate(whole.values())]


# Images.


def npz(folder):
    path = save(folder / "set.npz")
    return path, path.write_bytes, lambda: arrays.read_npz(path), [path.read_bytes()]


def npz_members(folder):
    """With right checksums; a byte says which member is changed."""
    path = save(folder / "set.npz", class_names=np.array(["a", "b"]))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def write(content):
        changed = {f"{arrays.KEYS[content[0] % len(arrays.KEYS)]}.npy": content[1:]} if content else {}
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in (members | changed).items():
                archive.writestr(name, member)

    seeds = [bytes([arrays.KEYS.index(name.removesuffix(".npy"))]) + member for name, member in members.items()]
    return path, write, lambda: arrays.read_npz(path), seeds


def packed_set(folder):
    path = folder / "set.npy"
    accepted("pack", folder_of_images(folder / "images", 2), path, "--image-size", 8)
    return path


def npy(folder):
    path = packed_set(folder)
    return path, path.write_bytes, lambda: packed.read_packed(path).train.images.sum(), [path.read_bytes()]


def description(folder):
    path = packed_set(folder)
    about = path.with_suffix(".json")
    return (
        path.with_suffix(""),
        about.write_bytes,
        lambda: packed.read_packed(path).train.images.sum(),
        [about.read_bytes()],
    )


def journal(folder):
    """Of an interrupted packing, and the unfinished array itself."""
    out, images = folder / "set.npy", list_folder(folder_of_images(folder / "images", 2)).with_test()
    contents = packed._digest(images, 8)
    begun = packed._Packing(images, out, 8, contents)
    begun._take_up()
    begun._decode()
    write_one, seeds = one_of(files := [begun.journal, begun.partial])
    whole = {path: path.read_bytes() for path in files}

    def write(content):
        for path, before in whole.items():  # which the last packing renamed
            path.write_bytes(before)
        write_one(content)

    def read():
        again = packed._Packing(images, out, 8, contents)
        again._take_up()
        if len(again.outcomes) == len(images.files):  # nothing to decode in other processes
            again._finish()

    return out, write, read, seeds


def image_files(folder):
    """The bytes of an image in a folder of images; the checksums in a PNG file are made right."""
    from PIL import Image

    Image.init()
    path = folder_of_images(folder / "images", 2) / "a" / "1.bmp"
    picture = Image.open(path).convert("RGB")
    seeds = []
    for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16", "CMYK"):
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):  # kinds that have no such mode
                picture.convert(mode if mode != "I;16" else "I").convert(mode).save(buffer, kind)
                seeds.append(buffer.getvalue())

    def write(content):
        path.write_bytes(with_checksums(content))

    return path, write, lambda: listing.decode_file(path, 8), seeds


def with_checksums(content):
    """A PNG file with the checksum that each of its chunks asks for; anything else unchanged."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    result, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        chunk = content[at:end]
        result += chunk + struct.pack(">I", zlib.crc32(chunk[4:]))
        at = end + 4
    return bytes(result + content[at:])


def class_lists(folder):
    """The lists of images of indoor67 and places205."""
    indoor, places = folder / "indoor67", folder / "places205"
    (indoor / "Images" / "bar").mkdir(parents=True)
    (places / PLACES_IMAGES / "a" / "abbey").mkdir(parents=True)
    for parent in (indoor / "Images" / "bar", places / PLACES_IMAGES / "a" / "abbey"):
        for name in ("1.jpg", "2.jpg"):
            (parent / name).touch()
    for name, words in zip(INDOOR_LISTS, ("bar/1.jpg\n", "bar/2.jpg\n"), strict=True):
        (indoor / name).write_text(words)
    for name, words in zip(PLACES_LISTS, ("a/abbey/1.jpg 0\n", "a/abbey/2.jpg 0\n"), strict=True):
        (places / name).parent.mkdir(parents=True, exist_ok=True)
        (places / name).write_text(words)
    write, seeds = one_of([*(indoor / name for name in INDOOR_LISTS), *(places / name for name in PLACES_LISTS)])

    def read():
        for place in (indoor, places):
            PUBLISHED[place.name].read(place)

    return folder, write, read, seeds


def archive_of(path, members):
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for name, member in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(member)
            tar.addfile(info, io.BytesIO(member))


def published_anew(path):
    """Reads an archive as if it were the published one, whose checksum is then right."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return cifar.read_cifar(dataclasses.replace(cifar.CIFAR10, md5=md5), path.parent)


BATCH = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
META = {b"label_names": [b"a", b"b", b"c"]}
NAMES = [*cifar.CIFAR10.train, *cifar.CIFAR10.test, cifar.CIFAR10.meta]


def cifar_pickles(folder):
    path = folder / cifar.CIFAR10.file_name
    whole = {name: pickle.dumps(META if name == cifar.CIFAR10.meta else BATCH, 4) for name in NAMES}

    def write(content):
        archive_of(path, whole | ({NAMES[content[0] % len(NAMES)]: content[1:]} if content else {}))

    seeds = [bytes([index]) + content
             for index, value in ((0, BATCH), (5, BATCH), (6, META))
             for content in (pickled(value), pickle.dumps(value, 3), pickle.dumps(value, 4))]  # fmt: skip
    return path, write, functools.partial(published_anew, path), seeds


def cifar_archive(folder):
    """Tar archive without its compression, which has a checksum. Its batches are of one image."""
    import gzip

    path = folder / cifar.CIFAR10.file_name
    archive_of(path, {name: pickle.dumps(META if name == cifar.CIFAR10.meta else BATCH, 4) for name in NAMES})
    seed = gzip.decompress(path.read_bytes())

    def write(content):
        path.write_bytes(gzip.compress(content, 0))

    return path, write, functools.partial(published_anew, path), [seed]


# Tensors.


def a_run(folder):
    """A run with everything that a run can have beside it."""
    run = trained(folder)
    accepted("measure", run)
    accepted("transfer", run, "--probe", "knn")
    accepted("transfer", run, "--freeze", "conv5", "--epochs", 1, "--batch-size", 8)
    return run


def trained(folder):
    """A run alone, of a model so small that it is read in milliseconds."""
    PRESETS["small"] = Preset((1, 1), width=4)  # in this process, which the fuzzer forked
    accepted("train", "--data", save(folder / "tiny.npz"), *SMALL, "--epochs", 1, "--out", folder / "run")
    return folder / "run"


def rebuilt(path):
    """(write, contents) for a file of tensors: the pickle is the content, the tensors' numbers are the file's own."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))

    def write(content):
        with zipfile.ZipFile(path, "w") as archive:
            for each, member in (members | {name: content}).items():
                archive.writestr(each, member)

    return write, [members[name]]


def checkpoints(folder):
    run = trained(folder)
    config = TrainingConfig(**{**checkpoint.read(run)["config"], "out": str(run), "epochs": 2})
    training = loop.Run(config, tiny_dataset())
    write, seeds = rebuilt(run / checkpoint.NAME)
    return run / checkpoint.NAME, write, lambda: training.restore(checkpoint.read(run)), seeds


def tensor_archive(folder):
    path = folder / "a.pt"
    torch.save({"a": torch.zeros(2, 3), "b": [torch.zeros(2, dtype=torch.int64)]}, path)
    return path, path.write_bytes, lambda: load_tensors(path), [path.read_bytes()]


def transfer_checkpoints(folder):
    run, fits = trained(folder), []

    def begin(fit):
        fit.train_epoch()
        fit.save()
        fits.append(fit)
        return fit.identity() | {"last_top1": 0.0, "seconds": 0.0}

    with mock.patch.object(fine_tuning.Fit, "run", begin):
        transfer(run, "linear", TransferConfig(epochs=2, batch_size=8, device="cpu"))
    path = fits[0].folder / "checkpoint.pt"
    write, seeds = rebuilt(path)
    return path, write, fits[0].resume, seeds


def weights(folder):
    model = trained(folder) / "model"
    write, seeds = rebuilt(model / "weights.pt")
    return model / "weights.pt", write, lambda: PatchVAE.from_pretrained(model), seeds


def safetensors(folder):
    """The JSON of a file's header, whose length is made right, or, after a byte that is odd, the whole file."""
    path = folder / "model.safetensors"
    whole = safetensors_to_bytes({"a": torch.zeros(2, 3), "b": torch.zeros(2, dtype=torch.int64)})
    end = 8 + int.from_bytes(whole[:8], "little")

    def write(content):
        if content[:1] and content[0] % 2:
            path.write_bytes(content[1:])
        else:
            path.write_bytes(struct.pack("<Q", len(content[1:])) + content[1:] + whole[end:])

    return path, write, lambda: load_safetensors(path), [b"\0" + whole[8:end], b"\1" + whole]


def release(folder):
    """PyTorch's older format, as of the authors' release."""
    path = folder / "a.pt"
    torch.save(a_release(), path, _use_new_zipfile_serialization=False)
    return path, path.write_bytes, lambda: read_release(path), [path.read_bytes()]


def resnet_weights(folder):
    """torchvision's, with few channels."""
    block = torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(2, 2, 3)})
    stem = {"conv1": torch.nn.Conv2d(3, 2, 7, bias=False), "bn1": torch.nn.BatchNorm2d(2)}
    network = torch.nn.ModuleDict(stem | {"layer1": torch.nn.ModuleList([block])})
    path = folder / "resnet18.pth"
    torch.save(network.state_dict(), path)
    write, seeds = rebuilt(path)
    return path, write, lambda: load_torchvision(network, path), seeds


def inception_weights(folder):
    """The weights of FID's network, with few channels: an archive's bytes after a byte that is odd, or its pickle."""
    path = folder / "inception.pth"
    torch.save(OneUnit().state_dict(), path)
    whole = path.read_bytes()
    pickled, (seed,) = rebuilt(path)

    def write(content):
        if content[:1] and content[0] % 2:
            path.write_bytes(content[1:])
        else:
            pickled(content[1:])

    return path, write, lambda: OneUnit.from_file(path), [b"\0" + seed, b"\1" + whole]


# What a run writes.


def json_files(folder):
    """All files that a report or a resumed training reads, as they are written today, with small pictures."""
    run = a_run(folder)
    accepted("figures", run)
    with mock.patch.object(sources, "PARTS_TEST", 40):  # whose measures say more
        words = ["--train-images", 40, "--image-size", 16, "--data", "parts", "--decoder", "pyramid", "--ground", 0]
        accepted("train", *SMALL, *words, "--encoder", "small", "--epochs", 1, "--out", folder / "parts")
        accepted("measure", folder / "parts")
    (folder / "parts" / "measures.json").replace(run / "measures.json")
    index = run / "figures" / "index.json"
    kept = json.loads(index.read_text())[:2]
    assert kept[0].keys() == {"file", "title", "text", "dark", "heading"}
    index.write_text(json.dumps(kept))
    for name in [entry[key] for entry in kept for key in ("file", "dark")]:
        (run / "figures" / name).write_bytes(small_picture())

    def report():
        html_report([run_record(run, "run")], "made").encode(errors="replace")

    def configuration():
        TrainingConfig.from_json_file(run / "config.json")
        report()

    readers = {
        "config.json": configuration,
        "metrics.jsonl": report,
        "measures.json": report,
        "transfer.json": report,
        "figures/index.json": report,
        f"figures/{kept[0]['file']}": report,
        "record.json": lambda: record.read(run),
        "model/config.json": lambda: PatchVAE.from_pretrained(run / "model"),
    }
    write_one, seeds = one_of([run / name for name in readers])
    chosen = [report]

    def write(content):
        chosen[0] = list(readers.values())[content[0] % len(readers)] if content else report
        write_one(content)

    return run, write, lambda: chosen[0](), seeds


def small_picture():
    """A PNG file of one pixel."""
    from PIL import Image

    Image.new("RGB", (1, 1)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def configuration(folder):
    """The file that is given to `train --config`."""
    path = folder / "options.json"
    path.write_text(TrainingConfig(data="parts").to_json())

    def read():
        config = TrainingConfig.from_json_file(path)
        assert TrainingConfig.from_dict(json.loads(config.to_json()), "itself") == config
        _ = config.folder

    other = TrainingConfig(data="a.npz", system="beta-vae").to_json().encode()
    return path, path.write_bytes, read, [path.read_bytes(), other]
