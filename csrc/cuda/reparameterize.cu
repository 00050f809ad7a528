// Gaussian samples on a GPU. Schemas and autograd: pyaegpu/ops/reparameterize.py.

#include <algorithm>
#include <tuple>

#include "arguments.h"
#include "sampling.cuh"

namespace pyaegpu::cuda {
namespace {

std::optional<Rows> maybe_rows(const MaybeTensor& t) {
  return t ? std::optional<Rows>(rows_of(*t)) : std::nullopt;
}

// The noise of a call: given, or drawn from its stream.
struct Source {
  std::optional<Rows> eps;
  MaybeTensor seed;
  int64_t seed_value, offset;

  Source(const MaybeTensor& eps_, const MaybeTensor& seed_, int64_t seed_value_, int64_t offset_)
      : eps(maybe_rows(eps_)), seed(seed_), seed_value(seed_value_), offset(offset_) {}
};

// The tensors and numbers that every op of the family takes.
struct Call {
  Tensor like;  // of the shape and dtype of all operands
  std::optional<Rows> g, mu, spread;
  Source noise;
  double lo, hi;

  template <typename T>
  SampleArgs<T> args() const {
    using A = Accumulator<T>;
    SampleArgs<T> args{};
    args.g = operand<T>(g);
    args.mu = operand<T>(mu);
    args.spread = operand<T>(spread);
    args.eps = operand<T>(noise.eps);
    args.seed = noise.seed ? noise.seed->const_data_ptr<int64_t>() : nullptr;
    args.seed_value = noise.seed_value;
    args.offset = noise.offset;
    args.bounds = {static_cast<A>(lo), static_cast<A>(hi)};
    return args;
  }

  template <typename T>
  static Operand<T> operand(const std::optional<Rows>& rows) {
    return rows ? Operand<T>{rows->tensor.const_data_ptr<T>(), rows->stride} : Operand<T>{};
  }

  bool flat() const {
    const auto contiguous = [](const std::optional<Rows>& rows) {
      return !rows || rows->contiguous();
    };
    return contiguous(g) && contiguous(mu) && contiguous(spread) && contiguous(noise.eps);
  }
};

// Blocks enough to fill a card a few times over; beyond that, each takes more.
constexpr int64_t kFullGrid = 4096;
// A row of up to this many groups for each thread of a warp is a warp's.
constexpr int64_t kWarpSteps = 4;

template <typename T>
Walk walk_of(const Call& call, int64_t rows) {
  constexpr int64_t kSize = kGroup<T>;
  Walk walk{};
  const int64_t numel = call.like.numel();
  walk.rows = rows;
  walk.inner = rows == 0 ? 0 : numel / rows;
  walk.flat = call.flat();
  walk.width = walk.flat ? numel : (call.g ? call.g : call.mu)->width;
  // A row that starts inside a group touches one more.
  const bool split = rows > 1 && walk.inner % kSize != 0;
  const int64_t groups = ceil_div(walk.inner, kSize) + (split ? 1 : 0);
  walk.by_warp = rows > 1 && groups <= 32 * kWarpSteps;
  walk.chunk = walk.by_warp
                   ? groups
                   : kThreads * std::max<int64_t>(1, ceil_div(numel, kFullGrid * kThreads * kSize));
  walk.parts = walk.inner == 0 ? 0 : ceil_div(groups, walk.chunk);
  return walk;
}

// Whether each operand's rows start on 16 bytes and hold whole groups.
template <typename T>
bool has_vectors(const SampleArgs<T>& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const auto fits = [&](const Operand<T>& from) {
    const bool rows =
        args.walk.flat || (args.walk.width % kGroup<T> == 0 && from.stride % Vector<T>::kSize == 0);
    return from.data == nullptr || (aligned(from.data) && rows);
  };
  return fits(args.g) && fits(args.mu) && fits(args.spread) && fits(args.eps) &&
         (!args.g_kl_each || aligned(args.g_kl)) && aligned(args.z) && aligned(args.drawn) &&
         aligned(args.d_mu) && aligned(args.d_spread) && aligned(args.d_eps) && aligned(args.kl);
}

template <typename T>
void run(const Launch& launch, const char* op, void (*kernel)(SampleArgs<T>), SampleArgs<T>& args) {
  const int64_t teams = args.walk.by_warp ? kThreads / 32 : 1;
  const unsigned blocks = blocks_for(ceil_div(args.walk.rows * args.walk.parts, teams));
  if (blocks == 0) return;
  args.walk.vectors = has_vectors(args);
  kernel<<<blocks, kThreads, 0, launch.stream()>>>(args);
  launch.check(op);
}

std::tuple<Tensor, Tensor> reparameterize_fwd(Tensor mu, Tensor spread, MaybeTensor eps,
                                              MaybeTensor seed, int64_t seed_value, int64_t offset,
                                              int64_t form, double lo, double hi, bool return_eps) {
  const Launch launch(mu);
  const Source noise(eps, seed, seed_value, offset);
  const Call call{mu, std::nullopt, rows_of(mu), rows_of(spread), noise, lo, hi};
  Tensor z = contiguous_like(mu);
  Tensor drawn = return_eps ? contiguous_like(mu) : none_like(mu);
  dispatch(mu.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    auto args = call.args<T>();
    args.walk = walk_of<T>(call, 1);
    args.z = z.mutable_data_ptr<T>();
    args.drawn = return_eps ? drawn.mutable_data_ptr<T>() : nullptr;
    run(launch, "reparameterize_fwd",
        form == kStd ? sample_kernel<kStd, T> : sample_kernel<kLogvar, T>, args);
  });
  return {z, drawn};
}

std::tuple<Tensor, Tensor> reparameterize_bwd(Tensor g, MaybeTensor spread, MaybeTensor eps,
                                              MaybeTensor seed, int64_t seed_value, int64_t offset,
                                              int64_t form, double lo, double hi, bool eps_grad) {
  STD_TORCH_CHECK(spread || (form == kStd && !eps_grad), "pyaegpu: spread is needed");
  const Launch launch(g);
  // The derivative in a standard deviation does not depend on it.
  if (form == kStd && !eps_grad) spread = std::nullopt;
  const Source noise(eps, seed, seed_value, offset);
  const Call call{g, rows_of(g), std::nullopt, maybe_rows(spread), noise, lo, hi};
  Tensor d_spread = contiguous_like(g);
  Tensor d_eps = eps_grad ? contiguous_like(g) : none_like(g);
  dispatch(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    auto args = call.args<T>();
    args.walk = walk_of<T>(call, 1);
    args.d_spread = d_spread.mutable_data_ptr<T>();
    args.d_eps = eps_grad ? d_eps.mutable_data_ptr<T>() : nullptr;
    run(launch, "reparameterize_bwd",
        form == kStd ? sample_grad_kernel<kStd, T> : sample_grad_kernel<kLogvar, T>, args);
  });
  return {d_spread, d_eps};
}

std::tuple<Tensor, Tensor> reparameterize_kl_fwd(Tensor mu, Tensor logvar, MaybeTensor eps,
                                                 MaybeTensor seed, int64_t seed_value,
                                                 int64_t offset, double lo, double hi,
                                                 int64_t reduction, double factor) {
  const Launch launch(mu);
  const Source noise(eps, seed, seed_value, offset);
  const Call call{mu, std::nullopt, rows_of(mu), rows_of(logvar), noise, lo, hi};
  const ScalarType acc = accumulator(mu.scalar_type());
  const int64_t rows = rows_of_reduction(mu, reduction);
  Tensor z = contiguous_like(mu);
  Tensor kl = new_empty(mu, reduction == kNone ? shape_of(mu) : result_shape(rows, reduction), acc);
  dispatch(mu.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = call.args<T>();
    args.walk = walk_of<T>(call, rows);
    args.z = z.mutable_data_ptr<T>();
    args.factor = static_cast<A>(factor);
    A* out = kl.mutable_data_ptr<A>();
    // The only chunk of a row is its sum already.
    const bool whole = args.walk.parts == 1;
    const bool staged = reduction != kNone && !whole;
    const Tensor partials = new_empty(mu, {staged ? rows * args.walk.parts : 0}, acc);
    args.kl = reduction == kNone ? out : nullptr;
    args.sums = reduction == kNone ? nullptr : (whole ? out : partials.mutable_data_ptr<A>());
    args.sum_factor = whole ? factor : 1.0;
    run(launch, "reparameterize_kl_fwd", sample_kl_kernel<T>, args);
    if (!staged) return;
    Finalise<A> last{};
    last.first = args.sums;
    last.first_parts = args.walk.parts;
    last.first_factor = factor;
    last.out_first = out;
    finalise(launch, last, rows);
  });
  return {z, kl};
}

std::tuple<Tensor, Tensor, Tensor> reparameterize_kl_bwd(MaybeTensor g_z, MaybeTensor g_kl,
                                                         Tensor mu, Tensor logvar, MaybeTensor eps,
                                                         MaybeTensor seed, int64_t seed_value,
                                                         int64_t offset, double lo, double hi,
                                                         int64_t reduction, double factor,
                                                         bool eps_grad) {
  const Launch launch(mu);
  const Source noise(eps, seed, seed_value, offset);
  const Call call{mu, maybe_rows(g_z), rows_of(mu), rows_of(logvar), noise, lo, hi};
  Tensor d_mu = contiguous_like(mu), d_logvar = contiguous_like(mu);
  Tensor d_eps = eps_grad ? contiguous_like(mu) : none_like(mu);
  dispatch(mu.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = call.args<T>();
    args.walk = walk_of<T>(call, rows_of_reduction(mu, reduction));
    args.factor = static_cast<A>(factor);
    args.d_mu = d_mu.mutable_data_ptr<T>();
    args.d_spread = d_logvar.mutable_data_ptr<T>();
    args.d_eps = eps_grad ? d_eps.mutable_data_ptr<T>() : nullptr;
    std::vector<Tensor> keep;
    args.g_kl_each = g_kl && reduction == kNone;
    if (args.g_kl_each) {
      const Tensor each = torch::stable::to(*g_kl, accumulator(mu.scalar_type()));
      keep.push_back(torch::stable::contiguous(each));
      args.g_kl = keep.back().template const_data_ptr<A>();
    } else {
      const auto up = upstream<A>(g_kl, accumulator(mu.scalar_type()), keep);
      args.g_kl = up.data;
      args.g_kl_stride = up.stride;
    }
    run(launch, "reparameterize_kl_bwd", sample_kl_grad_kernel<T>, args);
  });
  return {d_mu, d_logvar, d_eps};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cuda, CUDA, m) {
  m.impl("reparameterize_fwd", TORCH_BOX(&reparameterize_fwd));
  m.impl("reparameterize_bwd", TORCH_BOX(&reparameterize_bwd));
  m.impl("reparameterize_kl_fwd", TORCH_BOX(&reparameterize_kl_fwd));
  m.impl("reparameterize_kl_bwd", TORCH_BOX(&reparameterize_kl_bwd));
}

}  // namespace pyaegpu::cuda
