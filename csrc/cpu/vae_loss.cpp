// The loss family's ops on the CPU. Schemas and autograd: pyaegpu/ops/vae_loss.py.

#include <optional>
#include <tuple>

#include "gaussian_kl.h"
#include "reconstruction.h"
#include "results.h"

namespace pyaegpu::cpu {
namespace {

std::vector<double> added(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

double beta_of(const MaybeTensor& beta, double value) {
  return beta ? upstream_rows(beta, 1)[0] : value;
}

std::tuple<Tensor, Tensor> reconstruction_loss_fwd(Tensor recon, Tensor target, MaybeTensor weight,
                                                   int64_t kind, double threshold,
                                                   int64_t reduction, double factor,
                                                   bool store_grad) {
  const Reconstruction call(recon, target, weight, kind, threshold, reduction, factor);
  Tensor grad = store_grad ? torch::stable::empty_like(call.recon) : none_like(recon);
  Tensor value = dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (reduction == kNone) {
      Tensor values = torch::stable::empty_like(call.recon);
      reconstruction_values<T>(call, values.mutable_data_ptr<T>());
      if (store_grad) {
        reconstruction_gradient<T>(call, {1.0}, nullptr, grad.mutable_data_ptr<T>());
      }
      return values;
    }
    T* out = store_grad ? grad.mutable_data_ptr<T>() : nullptr;
    return as_result(reconstruction_sums<T>(call, out), recon, reduction);
  });
  return {value, grad};
}

Tensor reconstruction_loss_bwd(Tensor g, Tensor recon, Tensor target, MaybeTensor weight,
                               int64_t kind, double threshold, int64_t reduction, double factor) {
  const Reconstruction call(recon, target, weight, kind, threshold, reduction, factor);
  Tensor grad = torch::stable::empty_like(call.recon);
  dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* out = grad.mutable_data_ptr<T>();
    if (reduction == kNone) {
      const Tensor each = matched(g, call.recon);
      reconstruction_gradient<T>(call, {}, each.const_data_ptr<T>(), out);
    } else {
      reconstruction_gradient<T>(call, upstream_rows(g, call.split().rows), nullptr, out);
    }
  });
  return grad;
}

// A stored gradient is dense, and its rows lie one after the other.
Split rows_of_gradient(const Tensor& grad, int64_t reduction) {
  if (reduction != kRows) return Split(1, grad.numel());
  const int64_t rows = grad.size(0);
  return Split(rows, rows == 0 ? 0 : grad.numel() / rows);
}

void scale_stored(Tensor& grad, const std::vector<double>& by_row, int64_t reduction) {
  dispatch(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    scale_gradient<T>(grad.mutable_data_ptr<T>(), by_row, rows_of_gradient(grad, reduction));
  });
}

void reconstruction_loss_scale_(Tensor grad, Tensor g, int64_t reduction) {
  scale_stored(grad, upstream_rows(g, rows_of_gradient(grad, reduction).rows), reduction);
}

Tensor gaussian_kl_fwd(Tensor mu, Tensor spread, MaybeTensor mu2, MaybeTensor logvar2, int64_t form,
                       double lo, double hi, double log_eps, int64_t reduction, double factor) {
  const GaussianKL call(mu, spread, mu2, logvar2, form, lo, hi, log_eps, reduction, factor);
  return dispatch(mu.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    if (reduction == kTotal || reduction == kRows) {
      return as_result(kl_sums<T>(call), mu, reduction);
    }
    Tensor value =
        new_empty(mu, shape_of(mu, reduction == kColumns ? 1 : 0), accumulator(mu.scalar_type()));
    A* out = value.mutable_data_ptr<A>();
    reduction == kColumns ? kl_columns<T>(call, out) : kl_values<T>(call, out);
    return value;
  });
}

std::array<Tensor, 4> kl_gradients(const GaussianKL& call, const std::vector<double>& by_row,
                                   const MaybeTensor& each) {
  const Tensor& mu = call.mu();
  const ScalarType dtype = mu.scalar_type();
  std::array<Tensor, 4> grads;
  for (size_t k = 0; k < 4; ++k) {
    grads[k] = k < call.inputs.size() ? contiguous_like(mu) : none_like(mu);
  }
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    KLUpstream<A> upstream{by_row};
    MaybeTensor converted;
    if (each) {
      converted = torch::stable::contiguous(torch::stable::to(*each, accumulator(dtype)));
      upstream.each = converted->const_data_ptr<A>();
    }
    std::array<T*, 4> out{};
    for (size_t k = 0; k < call.inputs.size(); ++k) out[k] = grads[k].mutable_data_ptr<T>();
    kl_gradient<T>(call, upstream, out);
  });
  return grads;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gaussian_kl_bwd(Tensor g, Tensor mu, Tensor spread,
                                                           MaybeTensor mu2, MaybeTensor logvar2,
                                                           int64_t form, double lo, double hi,
                                                           double log_eps, int64_t reduction,
                                                           double factor) {
  const GaussianKL call(mu, spread, mu2, logvar2, form, lo, hi, log_eps, reduction, factor);
  const bool summed = reduction == kTotal || reduction == kRows;
  const auto grads =
      kl_gradients(call, summed ? upstream_rows(g, call.split().rows) : std::vector<double>{},
                   summed ? MaybeTensor() : MaybeTensor(g));
  return {grads[0], grads[1], grads[2], grads[3]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> vae_loss_fwd(
    Tensor recon, Tensor target, MaybeTensor weight, Tensor mu, Tensor logvar, MaybeTensor beta,
    double beta_value, int64_t kind, int64_t reduction, double recon_factor, double kl_factor,
    double lo, double hi, bool store_grad) {
  const Reconstruction part(recon, target, weight, kind, 1.0, reduction, recon_factor);
  const GaussianKL divergence(mu, logvar, {}, {}, kLogvar, lo, hi, 0.0, reduction, kl_factor);
  Tensor grad = store_grad ? torch::stable::empty_like(part.recon) : none_like(recon);
  const auto losses = dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return reconstruction_sums<T>(part, store_grad ? grad.mutable_data_ptr<T>() : nullptr);
  });
  const auto kl =
      dispatch(mu.scalar_type(), [&](auto zero) { return kl_sums<decltype(zero)>(divergence); });
  STD_TORCH_CHECK(losses.size() == kl.size(), "pyaegpu: recon has ", losses.size(),
                  " samples and mu has ", kl.size());
  const double weight_of_kl = beta_of(beta, beta_value);
  std::vector<double> total(losses);
  for (size_t i = 0; i < total.size(); ++i) total[i] += weight_of_kl * kl[i];
  return {as_result(total, recon, reduction), as_result(losses, recon, reduction),
          as_result(kl, recon, reduction), grad};
}

// Upstream gradients of the three results, as the two parts see them.
struct VAEUpstream {
  std::vector<double> reconstruction, kl;

  VAEUpstream(const MaybeTensor& g_loss, const MaybeTensor& g_recon, const MaybeTensor& g_kl,
              double beta, int64_t rows)
      : reconstruction(added(upstream_rows(g_loss, rows), upstream_rows(g_recon, rows))),
        kl(upstream_rows(g_loss, rows)) {
    for (double& value : kl) value *= beta;
    kl = added(kl, upstream_rows(g_kl, rows));
  }
};

std::tuple<Tensor, Tensor, Tensor> vae_loss_bwd(MaybeTensor g_loss, MaybeTensor g_recon,
                                                MaybeTensor g_kl, Tensor recon, Tensor target,
                                                MaybeTensor weight, Tensor mu, Tensor logvar,
                                                MaybeTensor beta, double beta_value, int64_t kind,
                                                int64_t reduction, double recon_factor,
                                                double kl_factor, double lo, double hi) {
  const Reconstruction part(recon, target, weight, kind, 1.0, reduction, recon_factor);
  const GaussianKL divergence(mu, logvar, {}, {}, kLogvar, lo, hi, 0.0, reduction, kl_factor);
  const VAEUpstream upstream(g_loss, g_recon, g_kl, beta_of(beta, beta_value), part.split().rows);
  Tensor grad = torch::stable::empty_like(part.recon);
  dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    reconstruction_gradient<T>(part, upstream.reconstruction, nullptr, grad.mutable_data_ptr<T>());
  });
  const auto grads = kl_gradients(divergence, upstream.kl, {});
  return {grad, grads[0], grads[1]};
}

std::tuple<Tensor, Tensor> vae_loss_bwd_stored_(Tensor grad, MaybeTensor g_loss,
                                                MaybeTensor g_recon, MaybeTensor g_kl, Tensor mu,
                                                Tensor logvar, MaybeTensor beta, double beta_value,
                                                int64_t reduction, double kl_factor, double lo,
                                                double hi) {
  const GaussianKL divergence(mu, logvar, {}, {}, kLogvar, lo, hi, 0.0, reduction, kl_factor);
  const VAEUpstream upstream(g_loss, g_recon, g_kl, beta_of(beta, beta_value),
                             rows_of_gradient(grad, reduction).rows);
  scale_stored(grad, upstream.reconstruction, reduction);
  const auto grads = kl_gradients(divergence, upstream.kl, {});
  return {grads[0], grads[1]};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("reconstruction_loss_fwd", TORCH_BOX(&reconstruction_loss_fwd));
  m.impl("reconstruction_loss_bwd", TORCH_BOX(&reconstruction_loss_bwd));
  m.impl("reconstruction_loss_scale_", TORCH_BOX(&reconstruction_loss_scale_));
  m.impl("gaussian_kl_fwd", TORCH_BOX(&gaussian_kl_fwd));
  m.impl("gaussian_kl_bwd", TORCH_BOX(&gaussian_kl_bwd));
  m.impl("vae_loss_fwd", TORCH_BOX(&vae_loss_fwd));
  m.impl("vae_loss_bwd", TORCH_BOX(&vae_loss_bwd));
  m.impl("vae_loss_bwd_stored_", TORCH_BOX(&vae_loss_bwd_stored_));
}

}  // namespace

// Compiled graphs call the public op; eager calls the one without an autograd key, at half the
// cost.
STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
