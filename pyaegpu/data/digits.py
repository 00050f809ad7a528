"""scikit-learn's bundled digits: 1,797 grey images of 8x8."""

import torch

from pyaegpu.data.dataset import Dataset, Split, hold_out

TEST_SAMPLES = 297


def load_digits(split_seed: int = 0) -> Dataset:
    """1,500 training and 297 test images of 8x8, values 0..16 divided by 16; the split follows `split_seed`.

    Source: UCI "Optical Recognition of Handwritten Digits" (test part), as in sklearn.datasets.load_digits.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32).div_(16).unsqueeze(1)
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    return Dataset("digits", *hold_out(Split(images, labels), TEST_SAMPLES, split_seed))
