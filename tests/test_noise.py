"""The tests' own generator of random numbers, against published vectors and numbers worked out apart."""

import math

import noise
import pytest
import torch

# kat_vectors of Random123, philox4x32 with 10 rounds: counter (four words), key (two words), result.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_published_vectors(counter, key, result):
    (*c,), (low, high), want = ([int(word, 16) for word in text.split()] for text in (counter, key, result))
    for seed in (high << 32 | low, (high << 32 | low) - 2**64):
        assert [x.item() for x in noise.philox(*(torch.tensor([i]) for i in c), seed)] == want


def test_offset_and_quad_have_their_places_in_the_counter():
    seed, offset = 0x299F31D0A4093822, 0x85A308D3243F6A88
    counter = (torch.tensor([i]) for i in (0x243F6A88, 0x85A308D3, 5, 0))
    assert noise.words(24, seed, offset)[20:].tolist() == [x.item() for x in noise.philox(*counter, seed)]
    counter = (torch.tensor([i]) for i in (0x243F6A88, 0x85A308D3, 1, 1))
    assert noise.words(4, seed, offset, 4 * 2**32 + 4).tolist() == [x.item() for x in noise.philox(*counter, seed)]


def test_words_from_any_quad_on():
    whole = noise.words(1031, -5, 8)
    assert torch.equal(noise.words(3, -5, 8, 1024), whole[1024:1027])
    assert noise.words(0, -5, 8).shape == (0,)


def test_normals_are_box_and_mullers():
    a, b, c, d = noise.words(4, 7, 4).tolist()
    expected = []
    for first, second in ((a, b), (c, d)):
        radius, angle = math.sqrt(-2 * math.log((first + 0.5) / 2**32)), 2 * math.pi * second / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    assert noise.normals(4, 7, 4).tolist() == pytest.approx(expected, rel=1e-14)
    assert noise.normals(3, 7, 4, torch.float32).tolist() == pytest.approx(expected[:3], rel=1e-6)
