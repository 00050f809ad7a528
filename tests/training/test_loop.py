"""The training loop and the evaluation."""

import math

import pytest
import torch
from torch import nn

from pyaegpu import models
from pyaegpu.training import DTYPES, Elbo, Images, Run, Schedule, TrainingError, evaluate, fit, make_loss

SCHEDULE = Schedule(epochs=3, batch_size=16, learning_rate=1e-2, seed=5)


def images(count=50, seed=0):
    """Two prototypes with some noise: something to learn."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.tensor([[0.9] * 6 + [0.1] * 6, [0.1] * 6 + [0.9] * 6])
    which = torch.randint(2, (count,), generator=generator)
    return (prototypes[which] + 0.05 * torch.randn(count, 12, generator=generator)).clamp(0, 1)


def make_model(**kwargs):
    torch.manual_seed(0)
    return models.create("vae", input_dim=12, hidden=16, latent=2, **kwargs)


def train(loss=None, schedule=SCHEDULE, model=None, dtype=torch.float32, **kwargs):
    run = Run(model or make_model(), loss or make_loss(), schedule, dtype)
    rows = list(fit(run, Images(images()), Images(images(30, 1)), **kwargs))
    assert run.history == rows
    return run.model, rows


class Fixed(nn.Module):
    """recon, mu and logvar of known loss, whatever the input."""

    def forward(self, x, generator=None):
        return torch.zeros_like(x), torch.ones(len(x), 2), torch.zeros(len(x), 2)


def test_evaluate_is_a_mean_per_sample():
    elbo = evaluate(Fixed(), make_loss(), Images(torch.rand(2500, 12)), seed=0)
    assert elbo.reconstruction == pytest.approx(12 * math.log(2), rel=1e-5)
    assert elbo.kl == pytest.approx(1.0, rel=1e-5)
    assert elbo.negative == pytest.approx(12 * math.log(2) + 1, rel=1e-5)


def test_evaluate_repeats_and_leaves_no_trace():
    model, test = make_model(), Images(images())
    before = torch.get_rng_state()
    first = evaluate(model, make_loss(), test, seed=1)
    assert first == evaluate(model, make_loss(), test, seed=1)
    assert first != evaluate(model, make_loss(), test, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_reported_elbo_does_not_depend_on_beta():
    plain, weighted = (evaluate(make_model(), make_loss(beta=b), Images(images()), seed=1) for b in (1.0, 7.0))
    assert plain == weighted


def test_loss_falls_and_rows_are_complete():
    _, rows = train(schedule=Schedule(20, 16, 1e-2, 5))
    assert [row.epoch for row in rows] == list(range(1, 21))
    assert rows[-1].test.negative < rows[0].test.negative - 1
    assert rows[-1].train.negative < rows[0].train.negative - 1
    assert rows[0].samples_per_second == pytest.approx(50 / rows[0].seconds)
    assert list(rows[0].as_dict()) == [
        "epoch",
        *(f"{part}_{what}" for part in ("train", "test") for what in ("negative_elbo", "reconstruction", "kl")),
        "seconds",
        "samples_per_second",
    ]


def test_same_seed_same_weights():
    results = [train()[0].state_dict() for _ in range(2)]
    other = train(schedule=Schedule(3, 16, 1e-2, 6))[0].state_dict()
    assert all(torch.equal(results[0][key], results[1][key]) for key in other)
    assert not torch.equal(results[0]["decoder.0.weight"], other["decoder.0.weight"])


def test_first_epoch_is_adam_on_every_sample_once():
    """With one batch an epoch, the weights are those of a loop written out with stock PyTorch."""
    schedule = Schedule(2, 1000, 1e-2, 5)
    trained, rows = train(make_loss(fused=False), schedule)
    model, x = make_model(), images()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    order, noise = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    for row in rows:
        batch = x[torch.randperm(50, generator=order)]
        recon, mu, logvar = model(batch, noise)
        reconstruction = nn.functional.binary_cross_entropy_with_logits(recon, batch, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp())
        optimizer.zero_grad()
        (reconstruction + kl).backward()
        optimizer.step()
        assert row.train.reconstruction == pytest.approx(reconstruction.item() / 50, rel=1e-5)
        assert row.train.kl == pytest.approx(kl.item() / 50, rel=1e-4)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_larger_beta_gives_smaller_kl():
    schedule = Schedule(60, 16, 1e-2, 5)
    kls = [train(make_loss(beta=beta), schedule)[1][-1].test.kl for beta in (0.1, 1.0, 20.0)]
    assert kls[0] > kls[1] > kls[2]
    assert kls[2] < 0.1


def test_progress_sees_every_batch():
    seen = []

    def progress(batches, epoch):
        for batch in batches:
            seen.append((epoch, len(batch)))
            yield batch

    train(progress=progress)
    assert seen == [(epoch, size) for epoch in (1, 2, 3) for size in (16, 16, 16, 2)]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])
@pytest.mark.parametrize("kind", ["bce", "bce_logits", "mse"])
def test_diverging_training_stops(kind, fused):
    model = make_model(output="logits" if kind == "bce_logits" else "sigmoid")
    with pytest.raises(TrainingError, match=r"epoch \d: the loss is not a finite number.*learning rate"):
        train(make_loss(kind, fused=fused), Schedule(3, 16, 1e30, 0), model)


def test_other_errors_are_not_called_divergence():
    def broken(*args):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(broken)


def test_bytes_train_as_the_floats_they_stand_for():
    pixels = images().mul(255).round().to(torch.uint8)
    results = []
    for values in (pixels, pixels.float() / 255):
        run = Run(make_model(), make_loss(), SCHEDULE)
        list(fit(run, Images(values), Images(values)))
        results.append([(row.train, row.test) for row in run.history])
    assert results[0] == results[1]


def test_large_images_are_evaluated_in_small_batches():
    seen = []

    class Watched(Fixed):
        def forward(self, x, generator=None):
            seen.append(len(x))
            return super().forward(x, generator)

    evaluate(Watched(), make_loss(), Images(torch.zeros(9, 1, 1024, 1024, dtype=torch.uint8)), seed=0)
    assert seen == [4, 4, 1]


def draws_alike(dtype):
    """Whether torch draws the same noise in that dtype as in float32, but for rounding; torch 2.11 does not."""
    drawn = (torch.randn(32, dtype=each, generator=torch.Generator().manual_seed(0)) for each in (dtype, torch.float32))
    return torch.allclose(*(noise.float() for noise in drawn), atol=0.05)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])
@pytest.mark.parametrize("kind", ["bce", "bce_logits", "mse"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_learns_what_float32_does(dtype, kind, fused):
    if not fused and not draws_alike(DTYPES[dtype]):
        pytest.skip("stock noise of another dtype is another noise in this torch")
    schedule = Schedule(12, 16, 2e-2, 5)
    output = "logits" if kind == "bce_logits" else "sigmoid"
    loss = make_loss(kind, fused=fused)
    model, mixed = train(loss, schedule, make_model(output=output, fused=fused), DTYPES[dtype])
    _, full = train(loss, schedule, make_model(output=output, fused=fused))
    assert mixed[-1].test.negative == pytest.approx(full[-1].test.negative, rel=0.03)
    assert mixed[-1].test.negative < mixed[0].test.negative * 0.97
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_forward_pass_is_in_the_dtype_and_the_loss_is_not():
    seen = []

    def loss(*tensors):
        parts = make_loss(fused=False)(*tensors)
        seen.append([t.dtype for t in (tensors[0], tensors[2], *parts)])
        return parts

    train(loss, dtype=torch.bfloat16)
    assert seen[0] == [torch.bfloat16] * 2 + [torch.float32] * 3


def test_steps_that_the_scaler_skips_are_no_divergence():
    run = Run(make_model(), make_loss(), SCHEDULE, torch.float16)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**40})
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    first = next(fit(run, Images(images()), Images(images())))
    assert first.train.is_finite()
    assert run.scaler.get_scale() == 2.0**36
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def test_divergence_in_float16():
    with pytest.raises(TrainingError, match="not a finite number"):
        train(schedule=Schedule(9, 16, 1e30, 0), dtype=torch.float16)


def test_elbo_parts():
    assert Elbo(3.0, 1.5).negative == 4.5
    assert Elbo(3.0, 1.5).is_finite()
    assert not Elbo(math.nan, 1.5).is_finite()
    assert not Elbo(3.0, math.inf).is_finite()
