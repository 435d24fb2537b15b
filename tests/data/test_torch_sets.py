"""PyTorch's data sets and loaders as training data."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from accel.data import from_torch, load
from accel.training import TrainingConfig, config_for, load_run, train


class Items(torch.utils.data.Dataset):
    """A torch Dataset of any list of items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def pictures(count=6, channels=3, seed=0):
    """uint8 (count, 16, 24, channels), and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 16, 24, channels), dtype=np.uint8), np.arange(count) % 2


def tensors(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@given(channels=st.sampled_from([1, 3]), batch_size=st.integers(1, 7), shuffle=st.booleans())
def test_a_loader_gives_the_images_of_its_set_in_order(channels, batch_size, shuffle):
    images, labels = pictures(channels=channels)
    plain = TensorDataset(tensors(images), torch.from_numpy(labels))
    loader = DataLoader(plain, batch_size=batch_size, shuffle=shuffle, drop_last=True)
    dataset = from_torch(loader, loader)
    for part in (dataset.train, dataset.test):
        assert np.array_equal(part.images, images)
        assert np.array_equal(part.labels, labels)
        assert part.labels.dtype == np.int64


def test_every_kind_of_item_gives_the_same_bytes():
    images, labels = pictures()
    floating = tensors(images).float() / 255  # as ToTensor gives them: k/255 is brought back to k
    kinds = {
        "tensor and label": list(zip(tensors(images), labels, strict=True)),
        "floating": list(zip(floating, labels, strict=True)),
        "picture": [(Image.fromarray(image), int(label)) for image, label in zip(images, labels, strict=True)],
        "array": list(zip(images, labels, strict=True)),
        "with a file name": [(image, label, "a.jpg") for image, label in zip(images, labels, strict=True)],
        "dictionary": [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)],
    }
    for items in kinds.values():
        dataset = from_torch(Items(items), Items(items))
        assert np.array_equal(dataset.train.images, images)
        assert np.array_equal(dataset.train.labels, labels)
    alone = from_torch(Items(list(images)), DataLoader(Items(list(images)), batch_size=4))
    assert np.array_equal(alone.test.images, images)
    assert alone.train.labels is None
    centred = from_torch(Items(list(floating * 2 - 1)), Items(list(floating)), value_range=(-1, 1))
    assert np.array_equal(centred.train.images, images)


def test_a_sampler_chooses_and_a_tenth_is_held_out():
    images, labels = pictures(20)
    plain = TensorDataset(tensors(images), torch.from_numpy(labels))
    some = from_torch(DataLoader(plain, batch_size=3, sampler=SubsetRandomSampler([7, 3, 5])), plain)
    assert np.array_equal(some.train.images, images[[3, 5, 7]])
    for drop_last, batches in [(False, BatchSampler), (True, BatchSampler), (False, list)]:
        batches = batches(*([[[7, 3], [5]]] if batches is list else [SubsetRandomSampler([7, 3, 5]), 2, drop_last]))
        some = from_torch(DataLoader(plain, batch_sampler=batches), plain)
        assert np.array_equal(some.train.labels, labels[[3, 5, 7]])
        assert np.array_equal(some.train.images, images[[3, 5, 7]])
    split = from_torch(plain, name="photographs", class_names=("a", "b"))
    assert (len(split.train), len(split.test), split.name, split.num_classes) == (18, 2, "photographs", 2)


def test_a_loader_that_does_not_batch():
    images, labels = pictures(20)
    plain = TensorDataset(tensors(images), torch.from_numpy(labels))
    several = BatchSampler(range(20), 6, False)
    arrays = Items(list(zip(images, labels, strict=True)))  # which such a loader makes tensors (H, W, C)
    for loader in (
        DataLoader(plain, batch_size=None, shuffle=True),
        DataLoader(plain, batch_size=None, sampler=several),
        DataLoader(arrays, batch_size=None),
    ):
        train = from_torch(loader, plain).train
        assert np.array_equal(train.images, images)
        assert np.array_equal(train.labels, labels)


def test_a_sampler_that_repeats_images_is_refused():
    plain = TensorDataset(torch.zeros(4, 3, 16, 16))
    with_replacement = WeightedRandomSampler([0, 1, 0, 0], 2)
    for options in ({"sampler": with_replacement, "batch_size": 2}, {"batch_sampler": [[1, 2], [0, 1]]}):
        with pytest.raises(
            ValueError, match="the sampler of train chooses image 1 more than once, expected one without"
        ):
            from_torch(DataLoader(plain, **options))


def test_pictures_are_converted_like_files_of_a_folder(tmp_path):
    """Palettes, transparency, one bit, grey, other colour spaces, and orientation."""
    whole = [Image.fromarray(image) for image in pictures(channels=4)[0]]
    opaque = [picture.convert("RGB") for picture in whole]
    turned = Image.Exif()
    turned[0x0112] = 3
    for mode in ("RGBA", "LA", "RGB", "L", "1", "P", "CMYK"):
        converted = [picture.convert(mode) for picture in (whole if mode.endswith("A") else opaque)]
        (tmp_path / mode).mkdir()
        for number, picture in enumerate(converted):
            picture.save(tmp_path / mode / f"{number}.{'tif' if mode == 'CMYK' else 'png'}", exif=turned)
            picture.getexif().update(turned)
        files = load(tmp_path / mode)
        assert np.array_equal(from_torch(Items(converted)).train.images, files.train.images)
    hsv, rgb = from_torch(Items([picture.convert("HSV") for picture in opaque])), from_torch(Items(opaque))
    assert np.abs(hsv.train.images.astype(int) - rgb.train.images).max() < 10  # a hue has 256 levels
    with pytest.raises(
        ValueError, match="a picture of train cannot be read as an image: its pixels are 32-bit numbers"
    ):
        from_torch(Items([Image.new("F", (8, 8))]))


def test_grey_among_rgb_is_repeated():
    images, _ = pictures()
    mixed = [*tensors(images[1:]), tensors(images[:1, ..., :1])[0]]
    dataset = from_torch(Items(mixed), Items(list(images)))
    assert np.array_equal(dataset.train.images[:-1], images[1:])
    assert np.array_equal(dataset.train.images[-1], images[0, ..., :1].repeat(3, axis=2))
    grey = from_torch(Items(list(images)), Items(tensors(images[..., :1]))).test.images
    assert np.array_equal(grey, images[..., :1].repeat(3, axis=3))


def test_an_endless_order_is_taken_as_it_comes():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(list(tensors(images)))

    images, _ = pictures()
    assert np.array_equal(from_torch(Stream(), DataLoader(Stream(), batch_size=4)).test.images, images)


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        (
            [torch.full((3, 8, 8), 2.5)],
            r"train must be uint8 or floating in \[0, 1\], .* from 2.5 to 2.5: leave",
        ),
        ([torch.full((3, 8, 8), float("nan"))], "must be uint8 or floating"),
        ([torch.zeros(5, 8, 8)], r"tensors \(C, H, W\), .* got float32 \(5, 8, 8\)"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], "images of train differ in size"),
        ([(torch.zeros(3, 8, 8), 0.5)], "labels of train must be whole numbers"),
        ([(torch.zeros(3, 8, 8), -1)], "labels of train must be whole numbers"),
        ([{"pixels": 0}], "items of train hold pixels, expected one of image"),
        ([], "train holds no images"),
        ("a folder", "train must be a torch Dataset or DataLoader, got str"),
    ],
)
def test_what_is_no_set_of_images_is_refused(items, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_torch(items if isinstance(items, str) else Items(items))


def test_refuses_two_sizes_and_another_range():
    with pytest.raises(ValueError, match="images of train are 8×8×3, but those of test 8×9×3"):
        from_torch(Items([torch.zeros(3, 8, 8)]), Items([torch.zeros(3, 8, 9)]))
    with pytest.raises(ValueError, match="value_range must be"):
        from_torch(Items([torch.zeros(3, 8, 8)]), value_range=(0, 255))


def test_trains_and_resumes_on_a_shuffling_loader(tmp_path):
    images, labels = pictures(20)
    loader = DataLoader(TensorDataset(tensors(images), torch.from_numpy(labels)), batch_size=4, shuffle=True)
    options = {"encoder": "small", "num_parts": 2, "batch_size": 6, "device": "cpu", "out": str(tmp_path / "run")}
    train(TrainingConfig(data="photographs", epochs=1, **options), from_torch(loader))
    folder = train(TrainingConfig(data="photographs", epochs=2, **options), from_torch(loader), resume=True)
    model, config = load_run(folder)
    assert config.data == "photographs"
    assert model.image_size == (16, 24)


def test_torch_data_are_refused_with_what_makes_a_data_set_of_them(tmp_path):
    source = TensorDataset(torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64))
    for torch_data in (source, DataLoader(source)):
        with pytest.raises(TypeError, match=r"got (TensorDataset|DataLoader): accel\.data\.from_torch makes one"):
            train(TrainingConfig(data="x", out=str(tmp_path / "run")), torch_data)
        with pytest.raises(TypeError, match=r"accel\.data\.from_torch makes one"):
            config_for(torch_data)
    assert not (tmp_path / "run").exists()
