// Gaussian samples on the CPU. Schemas and autograd: pyaegpu/ops/reparameterize.py.

#include <optional>
#include <tuple>

#include "results.h"
#include "sampling.h"

namespace pyaegpu::cpu {
namespace {

using MaybeTensor = std::optional<Tensor>;

// Calls f with a zero of the tensor's type, the form as a constant and the bounds.
template <typename F>
void with_form(const Tensor& like, int64_t form, double lo, double hi, const F& f) {
  dispatch(like.scalar_type(), [&](auto zero) {
    const Bounds<Accumulator<decltype(zero)>> bounds{static_cast<Accumulator<decltype(zero)>>(lo),
                                                     static_cast<Accumulator<decltype(zero)>>(hi)};
    if (form == kStd) {
      f(zero, std::integral_constant<int, kStd>{}, bounds);
    } else {
      f(zero, std::integral_constant<int, kLogvar>{}, bounds);
    }
  });
}

std::tuple<Tensor, Tensor> reparameterize_fwd(Tensor mu, Tensor spread, MaybeTensor eps,
                                              MaybeTensor seed, int64_t seed_value, int64_t offset,
                                              int64_t form, double lo, double hi, bool return_eps) {
  const Rows m = rows_of(mu), s = rows_of(spread);
  const Eps source(eps, seed, seed_value, offset);
  Tensor z = contiguous_like(mu);
  Tensor drawn = return_eps ? contiguous_like(mu) : none_like(mu);
  with_form(mu, form, lo, hi, [&](auto zero, auto form_, auto bounds) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    T* out = z.mutable_data_ptr<T>();
    T* noise = return_eps ? drawn.mutable_data_ptr<T>() : nullptr;
    for_each_tile(Split(1, mu.numel()), [&](int64_t i, int64_t n, int64_t) {
      A a[kTile], b[kTile], c[kTileQuads * kQuad];
      OutTile<T, A> sample(out + i);
      const A* e = source.load<T>(i, n, c);
      sample_tile<form_.value>(load_rows<T>(m, i, n, a), load_rows<T>(s, i, n, b), e, sample.values,
                               n, bounds);
      sample.store(n);
      if (noise != nullptr) narrow(e, noise + i, n);
    });
  });
  return {z, drawn};
}

std::tuple<Tensor, Tensor> reparameterize_bwd(Tensor g, MaybeTensor spread, MaybeTensor eps,
                                              MaybeTensor seed, int64_t seed_value, int64_t offset,
                                              int64_t form, double lo, double hi, bool eps_grad) {
  STD_TORCH_CHECK(spread || (form == kStd && !eps_grad), "pyaegpu: spread is needed");
  g = torch::stable::contiguous(g);
  // The derivative in a standard deviation does not depend on it.
  const Rows s = rows_of(spread ? *spread : g);
  const Eps source(eps, seed, seed_value, offset);
  Tensor d_spread = contiguous_like(g);
  Tensor d_eps = eps_grad ? contiguous_like(g) : none_like(g);
  with_form(g, form, lo, hi, [&](auto zero, auto form_, auto bounds) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const T* upstream = g.const_data_ptr<T>();
    T* out = d_spread.mutable_data_ptr<T>();
    T* at_eps = eps_grad ? d_eps.mutable_data_ptr<T>() : nullptr;
    for_each_tile(Split(1, g.numel()), [&](int64_t i, int64_t n, int64_t) {
      A a[kTile], b[kTile], c[kTileQuads * kQuad];
      const A* up = load(upstream + i, a, n);
      const A* values = load_rows<T>(s, i, n, b);
      OutTile<T, A> grad(out + i);
      sample_grad_tile<form_.value>(up, values, source.load<T>(i, n, c), grad.values, n, bounds);
      grad.store(n);
      if (at_eps == nullptr) return;
      OutTile<T, A> grad_eps(at_eps + i);
      scaled_tile<form_.value>(up, values, grad_eps.values, n, bounds);
      grad_eps.store(n);
    });
  });
  return {d_spread, d_eps};
}

Split split_of(const Tensor& mu, int64_t reduction) {
  if (reduction != kRows) return Split(1, mu.numel());
  return Split(mu.size(0), mu.size(0) == 0 ? 0 : mu.numel() / mu.size(0));
}

std::tuple<Tensor, Tensor> reparameterize_kl_fwd(Tensor mu, Tensor logvar, MaybeTensor eps,
                                                 MaybeTensor seed, int64_t seed_value,
                                                 int64_t offset, double lo, double hi,
                                                 int64_t reduction, double factor) {
  const Rows m = rows_of(mu), s = rows_of(logvar);
  const Eps source(eps, seed, seed_value, offset);
  const Split split = split_of(mu, reduction);
  Sums sums(split);
  Tensor z = contiguous_like(mu);
  Tensor each = new_empty(mu, reduction == kNone ? shape_of(mu) : std::vector<int64_t>{0},
                          accumulator(mu.scalar_type()));
  with_form(mu, kLogvar, lo, hi, [&](auto zero, auto, auto bounds) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    T* out = z.mutable_data_ptr<T>();
    A* values = reduction == kNone ? each.mutable_data_ptr<A>() : nullptr;
    for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
      A a[kTile], b[kTile], c[kTileQuads * kQuad], buffer[kTile];
      A* kl = values ? values + i : buffer;
      OutTile<T, A> sample(out + i);
      sample_kl_tile(load_rows<T>(m, i, n, a), load_rows<T>(s, i, n, b), source.load<T>(i, n, c),
                     sample.values, kl, n, bounds);
      sample.store(n);
      values ? scale(kl, A(factor), n) : sums.add(kl, i, n);
    });
  });
  if (reduction == kNone) return {z, each};
  std::vector<double> totals(split.rows);
  for (int64_t r = 0; r < split.rows; ++r) totals[r] = factor * sums.row(r);
  return {z, as_result(totals, mu, reduction)};
}

// The upstream gradient of each element's divergence: its own, its row's, or one for all.
template <typename A>
struct KLUpstreamTile {
  const Split& split;
  int64_t reduction;
  double factor;
  std::vector<double> by_row;
  const A* each;

  void fill(int64_t begin, int64_t n, A* out) const {
    for (int64_t i = begin, end = begin + n; i < end;) {
      const int64_t stop = split.row_end(i, end);
      A* from = out + (i - begin);
      if (each) {
        std::copy(each + i, each + stop, from);
        scale(from, A(factor), stop - i);
      } else {
        std::fill(from, from + (stop - i), A(by_row[i / split.inner] * factor));
      }
      i = stop;
    }
  }
};

template <typename A>
using KLGradTile = void (*)(const A* __restrict__, const A* __restrict__, const A* __restrict__,
                            const A* __restrict__, const A* __restrict__, A* __restrict__,
                            A* __restrict__, int64_t, Bounds<A>);

template <typename A>
KLGradTile<A> kl_grad_tile_of(bool z, bool kl) {
  if (z && kl) return sample_kl_grad_tile<true, true, A>;
  if (z) return sample_kl_grad_tile<true, false, A>;
  return kl ? sample_kl_grad_tile<false, true, A> : sample_kl_grad_tile<false, false, A>;
}

std::tuple<Tensor, Tensor, Tensor> reparameterize_kl_bwd(MaybeTensor g_z, MaybeTensor g_kl,
                                                         Tensor mu, Tensor logvar, MaybeTensor eps,
                                                         MaybeTensor seed, int64_t seed_value,
                                                         int64_t offset, double lo, double hi,
                                                         int64_t reduction, double factor,
                                                         bool eps_grad) {
  const ScalarType acc = accumulator(mu.scalar_type());
  const Rows m = rows_of(mu), s = rows_of(logvar);
  const Eps source(eps, seed, seed_value, offset);
  const Split split = split_of(mu, reduction);
  Tensor d_mu = contiguous_like(mu), d_logvar = contiguous_like(mu);
  Tensor d_eps = eps_grad ? contiguous_like(mu) : none_like(mu);
  if (g_z) g_z = torch::stable::contiguous(*g_z);
  MaybeTensor each;
  if (g_kl && reduction == kNone) each = torch::stable::contiguous(torch::stable::to(*g_kl, acc));
  with_form(mu, kLogvar, lo, hi, [&](auto zero, auto, auto bounds) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const T* up = g_z ? g_z->const_data_ptr<T>() : nullptr;
    T* at_mu = d_mu.mutable_data_ptr<T>();
    T* at_logvar = d_logvar.mutable_data_ptr<T>();
    T* at_eps = eps_grad ? d_eps.mutable_data_ptr<T>() : nullptr;
    const KLUpstreamTile<A> upstream{
        split, reduction, factor,
        reduction == kNone ? std::vector<double>{} : upstream_rows(g_kl, split.rows),
        each ? each->const_data_ptr<A>() : nullptr};
    const KLGradTile<A> tile = kl_grad_tile_of<A>(g_z.has_value(), g_kl.has_value());
    for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
      A a[kTile], b[kTile], c[kTileQuads * kQuad], d[kTile], by[kTile];
      const A* g = up ? load(up + i, d, n) : nullptr;
      const A* l = load_rows<T>(s, i, n, b);
      if (g_kl) upstream.fill(i, n, by);
      OutTile<T, A> grad_mu(at_mu + i), grad_logvar(at_logvar + i);
      tile(g, by, load_rows<T>(m, i, n, a), l, up ? source.load<T>(i, n, c) : nullptr,
           grad_mu.values, grad_logvar.values, n, bounds);
      grad_mu.store(n);
      grad_logvar.store(n);
      if (at_eps == nullptr) return;
      OutTile<T, A> grad_eps(at_eps + i);
      if (g) {
        scaled_tile<kLogvar>(g, l, grad_eps.values, n, bounds);
      } else {
        std::fill(grad_eps.values, grad_eps.values + n, A(0));
      }
      grad_eps.store(n);
    });
  });
  return {d_mu, d_logvar, d_eps};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("reparameterize_fwd", TORCH_BOX(&reparameterize_fwd));
  m.impl("reparameterize_bwd", TORCH_BOX(&reparameterize_bwd));
  m.impl("reparameterize_kl_fwd", TORCH_BOX(&reparameterize_kl_fwd));
  m.impl("reparameterize_kl_bwd", TORCH_BOX(&reparameterize_kl_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
