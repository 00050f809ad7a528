// The loss family's ops on a GPU. Schemas and autograd: pyaegpu/ops/vae_loss.py.

#include <algorithm>
#include <array>
#include <tuple>

#include "arguments.h"
#include "gaussian_kl.cuh"
#include "reconstruction.cuh"

namespace pyaegpu::cuda {
namespace {

// One launch serves both parts: the first `split` blocks take the reconstruction, the others the
// divergence. An op of one part alone launches no blocks for the other.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    vae_forward_kernel(ReconstructionArgs<T> recon, KLArgs<Accumulator<T>> kl, unsigned split) {
  if (blockIdx.x < split) {
    reconstruction_forward(recon, blockIdx.x);
  } else {
    kl_forward(kl, blockIdx.x - split);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    vae_backward_kernel(ReconstructionArgs<T> recon, KLArgs<Accumulator<T>> kl, unsigned split) {
  if (blockIdx.x < split) {
    reconstruction_backward(recon, blockIdx.x);
  } else {
    kl_backward(kl, blockIdx.x - split);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    vae_backward_stored_kernel(ReconstructionArgs<T> recon, KLArgs<Accumulator<T>> kl,
                               unsigned split) {
  if (blockIdx.x < split) {
    scale_stored(recon, blockIdx.x);
  } else {
    kl_backward(kl, blockIdx.x - split);
  }
}

template <typename T>
using Kernel = void (*)(ReconstructionArgs<T>, KLArgs<Accumulator<T>>, unsigned);

template <typename T>
void run(const Launch& launch, const char* op, Kernel<T> kernel, const ReconstructionArgs<T>& recon,
         int64_t recon_blocks, const KLArgs<Accumulator<T>>& kl, int64_t kl_blocks) {
  const unsigned blocks = blocks_for(recon_blocks + kl_blocks);
  if (blocks == 0) return;
  kernel<<<blocks, kThreads, 0, launch.stream()>>>(recon, kl, static_cast<unsigned>(recon_blocks));
  launch.check(op);
}

// The tensors of a reconstruction loss in the layout that its kernels walk.
struct Reconstruction {
  Tensor recon, target;
  MaybeTensor weight;
  int64_t rows;

  Reconstruction(const Tensor& recon_, const Tensor& target_, const MaybeTensor& weight_,
                 int64_t reduction)
      : recon(dense(recon_, reduction == kRows)),
        target(matched(target_, recon)),
        weight(matched(weight_, recon)),
        rows(rows_of_reduction(recon, reduction)) {}

  Tensor empty_like() const { return torch::stable::empty_like(recon); }

  template <typename T>
  ReconstructionArgs<T> args(int64_t kind, double threshold, double factor) const {
    auto args = rows_args<T>(recon.numel(), rows);
    args.recon = recon.const_data_ptr<T>();
    args.target = target.const_data_ptr<T>();
    args.weight = weight ? weight->const_data_ptr<T>() : nullptr;
    args.kind = static_cast<int>(kind);
    args.threshold = static_cast<Accumulator<T>>(threshold);
    args.factor = static_cast<Accumulator<T>>(factor);
    return args;
  }

  template <typename T>
  static ReconstructionArgs<T> rows_args(int64_t numel, int64_t rows) {
    ReconstructionArgs<T> args{};
    args.inner = rows == 0 ? 0 : numel / rows;
    args.parts = ceil_div(args.inner, kChunk<T>);
    return args;
  }
};

template <typename T>
int64_t blocks_of(const ReconstructionArgs<T>& args, int64_t rows) {
  return rows * args.parts;
}

// 16-byte accesses need every pointer in use to be aligned at the start of every row.
template <typename T>
void choose_vectors(ReconstructionArgs<T>& args, int64_t rows) {
  const std::array<const void*, 6> pointers{args.recon, args.target, args.weight,
                                            args.each,  args.grad,   args.value};
  args.vectors = (rows <= 1 || args.inner % Vector<T>::kSize == 0) &&
                 std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
                   return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
                 });
}

// The tensors of a divergence as rows, each in the dtype of mu.
struct Divergence {
  std::vector<Rows> inputs;
  int64_t rows;

  Divergence(const std::vector<Tensor>& tensors, int64_t reduction)
      : rows(rows_of_reduction(tensors[0], reduction)) {
    for (const Tensor& t : tensors) inputs.push_back(rows_of(t));
  }

  const Tensor& mu() const { return inputs[0].tensor; }

  template <typename A>
  KLArgs<A> args(int64_t form, double lo, double hi, double log_eps, int64_t reduction,
                 double factor) const {
    KLArgs<A> args{};
    args.io = {mu().scalar_type()};
    for (size_t k = 0; k < inputs.size(); ++k) {
      args.inputs[k] = inputs[k].tensor.const_data_ptr();
      args.strides[k] = inputs[k].stride;
    }
    args.width = inputs[0].width;
    args.inner = rows == 0 ? 0 : mu().numel() / rows;
    args.parts = ceil_div(args.inner, kKLChunk);
    args.form = static_cast<int>(form);
    args.reduction = static_cast<int>(reduction);
    args.has_other = inputs.size() > 2;
    args.options = {static_cast<A>(lo), static_cast<A>(hi), static_cast<A>(log_eps)};
    args.factor = static_cast<A>(factor);
    args.beta_value = 1.0;
    return args;
  }
};

std::tuple<Tensor, Tensor> reconstruction_loss_fwd(Tensor recon, Tensor target, MaybeTensor weight,
                                                   int64_t kind, double threshold,
                                                   int64_t reduction, double factor,
                                                   bool store_grad) {
  const Launch launch(recon);
  const Reconstruction call(recon, target, weight, reduction);
  const ScalarType acc = accumulator(recon.scalar_type());
  Tensor grad = store_grad ? call.empty_like() : none_like(recon);
  Tensor value = reduction == kNone ? call.empty_like()
                                    : new_empty(recon, result_shape(call.rows, reduction), acc);
  dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = call.args<T>(kind, threshold, factor);
    const int64_t blocks = blocks_of(args, call.rows);
    const Tensor partials = new_empty(recon, {reduction == kNone ? 0 : blocks}, acc);
    args.grad = store_grad ? grad.mutable_data_ptr<T>() : nullptr;
    args.value = reduction == kNone ? value.mutable_data_ptr<T>() : nullptr;
    args.partials = reduction == kNone ? nullptr : partials.mutable_data_ptr<A>();
    choose_vectors(args, call.rows);
    run<T>(launch, "reconstruction_loss_fwd", vae_forward_kernel<T>, args, blocks, {}, 0);
    if (reduction == kNone) return;
    Finalise<A> last{};
    last.first = args.partials;
    last.first_parts = args.parts;
    last.first_factor = factor;
    last.out_first = value.mutable_data_ptr<A>();
    finalise(launch, last, call.rows);
  });
  return {value, grad};
}

Tensor reconstruction_loss_bwd(Tensor g, Tensor recon, Tensor target, MaybeTensor weight,
                               int64_t kind, double threshold, int64_t reduction, double factor) {
  const Launch launch(recon);
  const Reconstruction call(recon, target, weight, reduction);
  Tensor grad = call.empty_like();
  dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = call.args<T>(kind, threshold, factor);
    std::vector<Tensor> keep;
    if (reduction == kNone) {
      keep.push_back(matched(g, call.recon));
      args.each = keep.back().template const_data_ptr<T>();
    } else {
      const auto up = upstream<A>(g, accumulator(recon.scalar_type()), keep);
      args.g_first = up.data;
      args.g_first_stride = up.stride;
    }
    args.grad = grad.mutable_data_ptr<T>();
    choose_vectors(args, call.rows);
    run<T>(launch, "reconstruction_loss_bwd", vae_backward_kernel<T>, args,
           blocks_of(args, call.rows), {}, 0);
  });
  return grad;
}

void reconstruction_loss_scale_(Tensor grad, Tensor g, int64_t reduction) {
  const Launch launch(grad);
  dispatch(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const int64_t rows = rows_of_reduction(grad, reduction);
    auto args = Reconstruction::rows_args<T>(grad.numel(), rows);
    std::vector<Tensor> keep;
    const auto up = upstream<A>(g, accumulator(grad.scalar_type()), keep);
    args.g_first = up.data;
    args.g_first_stride = up.stride;
    args.grad = grad.mutable_data_ptr<T>();
    choose_vectors(args, rows);
    run<T>(launch, "reconstruction_loss_scale_", vae_backward_stored_kernel<T>, args,
           blocks_of(args, rows), {}, 0);
  });
}

std::vector<Tensor> given(const Tensor& mu, const Tensor& spread, const MaybeTensor& mu2,
                          const MaybeTensor& logvar2) {
  std::vector<Tensor> tensors{mu, spread};
  if (mu2 && logvar2) tensors.insert(tensors.end(), {*mu2, *logvar2});
  return tensors;
}

Tensor gaussian_kl_fwd(Tensor mu, Tensor spread, MaybeTensor mu2, MaybeTensor logvar2, int64_t form,
                       double lo, double hi, double log_eps, int64_t reduction, double factor) {
  const Launch launch(mu);
  const Divergence call(given(mu, spread, mu2, logvar2), reduction);
  const ScalarType acc = accumulator(mu.scalar_type());
  const bool summed = reduction == kTotal || reduction == kRows;
  Tensor value = summed ? new_empty(mu, result_shape(call.rows, reduction), acc)
                        : new_empty(mu, shape_of(mu, reduction == kColumns ? 1 : 0), acc);
  dispatch(mu.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = call.args<A>(form, lo, hi, log_eps, reduction, factor);
    A* out = value.mutable_data_ptr<A>();
    if (reduction == kColumns) {
      if (args.width == 0) return;
      args.value = out;
      const dim3 threads(kColumnsPerBlock, kRowLanes);
      kl_columns_kernel<A>
          <<<blocks_for(ceil_div(args.width, kColumnsPerBlock)), threads, 0, launch.stream()>>>(
              args, mu.size(0));
      launch.check("gaussian_kl_fwd");
      return;
    }
    const int64_t blocks = call.rows * args.parts;
    const Tensor partials = new_empty(mu, {summed ? blocks : 0}, acc);
    args.value = summed ? nullptr : out;
    args.partials = summed ? partials.mutable_data_ptr<A>() : nullptr;
    run<T>(launch, "gaussian_kl_fwd", vae_forward_kernel<T>, {}, 0, args, blocks);
    if (!summed) return;
    Finalise<A> last{};
    last.first = args.partials;
    last.first_parts = args.parts;
    last.first_factor = factor;
    last.out_first = out;
    finalise(launch, last, call.rows);
  });
  return value;
}

std::array<Tensor, 4> empty_gradients(const Divergence& call) {
  std::array<Tensor, 4> grads;
  const Tensor& mu = call.mu();
  for (size_t k = 0; k < 4; ++k) {
    grads[k] = k < call.inputs.size() ? contiguous_like(mu) : none_like(mu);
  }
  return grads;
}

template <typename A>
void set_gradients(KLArgs<A>& args, const Divergence& call, const std::array<Tensor, 4>& grads) {
  for (size_t k = 0; k < call.inputs.size(); ++k) args.grads[k] = grads[k].mutable_data_ptr();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gaussian_kl_bwd(Tensor g, Tensor mu, Tensor spread,
                                                           MaybeTensor mu2, MaybeTensor logvar2,
                                                           int64_t form, double lo, double hi,
                                                           double log_eps, int64_t reduction,
                                                           double factor) {
  const Launch launch(mu);
  const Divergence call(given(mu, spread, mu2, logvar2), reduction);
  const auto grads = empty_gradients(call);
  dispatch(mu.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = call.args<A>(form, lo, hi, log_eps, reduction, factor);
    std::vector<Tensor> keep;
    const auto up = upstream<A>(g, accumulator(mu.scalar_type()), keep);
    if (reduction == kTotal || reduction == kRows) {
      args.g_first = up.data;
      args.g_first_stride = up.stride;
    } else {
      keep.push_back(torch::stable::contiguous(keep.back()));
      args.g_each = keep.back().template const_data_ptr<A>();
    }
    set_gradients(args, call, grads);
    run<T>(launch, "gaussian_kl_bwd", vae_backward_kernel<T>, {}, 0, args, call.rows * args.parts);
  });
  return {grads[0], grads[1], grads[2], grads[3]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> vae_loss_fwd(
    Tensor recon, Tensor target, MaybeTensor weight, Tensor mu, Tensor logvar, MaybeTensor beta,
    double beta_value, int64_t kind, int64_t reduction, double recon_factor, double kl_factor,
    double lo, double hi, bool store_grad) {
  const Launch launch(recon);
  const Reconstruction part(recon, target, weight, reduction);
  const Divergence divergence({mu, logvar}, reduction);
  STD_TORCH_CHECK(part.rows == divergence.rows, "pyaegpu: recon has ", part.rows,
                  " samples and mu has ", divergence.rows);
  const ScalarType acc = accumulator(recon.scalar_type());
  const auto shape = result_shape(part.rows, reduction);
  const Tensor loss = new_empty(recon, shape, acc), reconstruction = new_empty(recon, shape, acc),
               kl = new_empty(recon, shape, acc);
  Tensor grad = store_grad ? part.empty_like() : none_like(recon);
  dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = part.args<T>(kind, 1.0, recon_factor);
    auto kl_args = divergence.args<A>(kLogvar, lo, hi, 0.0, reduction, kl_factor);
    const int64_t blocks = blocks_of(args, part.rows);
    const int64_t kl_blocks = divergence.rows * kl_args.parts;
    const Tensor partials = new_empty(recon, {blocks + kl_blocks}, acc);
    args.partials = partials.mutable_data_ptr<A>();
    kl_args.partials = args.partials + blocks;
    args.grad = store_grad ? grad.mutable_data_ptr<T>() : nullptr;
    choose_vectors(args, part.rows);
    run<T>(launch, "vae_loss_fwd", vae_forward_kernel<T>, args, blocks, kl_args, kl_blocks);
    const A* beta_data = beta ? beta->const_data_ptr<A>() : nullptr;
    const Finalise<A> last{args.partials,
                           kl_args.partials,
                           beta_data,
                           reconstruction.mutable_data_ptr<A>(),
                           kl.mutable_data_ptr<A>(),
                           loss.mutable_data_ptr<A>(),
                           args.parts,
                           kl_args.parts,
                           recon_factor,
                           kl_factor,
                           beta_value};
    finalise(launch, last, part.rows);
  });
  return {loss, reconstruction, kl, grad};
}

// What the two backward ops share: the upstream gradients and the gradients at mu and logvar.
struct VAEBackward {
  MaybeTensor g_loss, g_recon, g_kl, beta;
  double beta_value;
  ScalarType acc;

  template <typename T, typename A>
  void set_upstream(ReconstructionArgs<T>& recon, KLArgs<A>& kl, std::vector<Tensor>& keep) const {
    const auto loss = upstream<A>(g_loss, acc, keep);
    const auto first = upstream<A>(g_recon, acc, keep);
    const auto second = upstream<A>(g_kl, acc, keep);
    recon.g_first = kl.g_first = loss.data;
    recon.g_first_stride = kl.g_first_stride = loss.stride;
    recon.g_second = first.data;
    recon.g_second_stride = first.stride;
    kl.g_second = second.data;
    kl.g_second_stride = second.stride;
    kl.beta = beta ? beta->const_data_ptr<A>() : nullptr;
    kl.beta_value = beta_value;
  }
};

std::tuple<Tensor, Tensor, Tensor> vae_loss_bwd(MaybeTensor g_loss, MaybeTensor g_recon,
                                                MaybeTensor g_kl, Tensor recon, Tensor target,
                                                MaybeTensor weight, Tensor mu, Tensor logvar,
                                                MaybeTensor beta, double beta_value, int64_t kind,
                                                int64_t reduction, double recon_factor,
                                                double kl_factor, double lo, double hi) {
  const Launch launch(recon);
  const Reconstruction part(recon, target, weight, reduction);
  const Divergence divergence({mu, logvar}, reduction);
  const VAEBackward up{g_loss, g_recon, g_kl, beta, beta_value, accumulator(recon.scalar_type())};
  Tensor grad = part.empty_like();
  const auto grads = empty_gradients(divergence);
  dispatch(recon.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = part.args<T>(kind, 1.0, recon_factor);
    auto kl_args = divergence.args<A>(kLogvar, lo, hi, 0.0, reduction, kl_factor);
    std::vector<Tensor> keep;
    up.set_upstream(args, kl_args, keep);
    args.grad = grad.mutable_data_ptr<T>();
    set_gradients(kl_args, divergence, grads);
    choose_vectors(args, part.rows);
    run<T>(launch, "vae_loss_bwd", vae_backward_kernel<T>, args, blocks_of(args, part.rows),
           kl_args, divergence.rows * kl_args.parts);
  });
  return {grad, grads[0], grads[1]};
}

std::tuple<Tensor, Tensor> vae_loss_bwd_stored_(Tensor grad, MaybeTensor g_loss,
                                                MaybeTensor g_recon, MaybeTensor g_kl, Tensor mu,
                                                Tensor logvar, MaybeTensor beta, double beta_value,
                                                int64_t reduction, double kl_factor, double lo,
                                                double hi) {
  const Launch launch(grad);
  const Divergence divergence({mu, logvar}, reduction);
  const VAEBackward up{g_loss, g_recon, g_kl, beta, beta_value, accumulator(grad.scalar_type())};
  const auto grads = empty_gradients(divergence);
  const int64_t rows = rows_of_reduction(grad, reduction);
  dispatch(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    auto args = Reconstruction::rows_args<T>(grad.numel(), rows);
    auto kl_args = divergence.args<A>(kLogvar, lo, hi, 0.0, reduction, kl_factor);
    std::vector<Tensor> keep;
    up.set_upstream(args, kl_args, keep);
    args.grad = grad.mutable_data_ptr<T>();
    set_gradients(kl_args, divergence, grads);
    choose_vectors(args, rows);
    run<T>(launch, "vae_loss_bwd_stored_", vae_backward_stored_kernel<T>, args,
           blocks_of(args, rows), kl_args, divergence.rows * kl_args.parts);
  });
  return {grads[0], grads[1]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cuda, CUDA, m) {
  m.impl("reconstruction_loss_fwd", TORCH_BOX(&reconstruction_loss_fwd));
  m.impl("reconstruction_loss_bwd", TORCH_BOX(&reconstruction_loss_bwd));
  m.impl("reconstruction_loss_scale_", TORCH_BOX(&reconstruction_loss_scale_));
  m.impl("gaussian_kl_fwd", TORCH_BOX(&gaussian_kl_fwd));
  m.impl("gaussian_kl_bwd", TORCH_BOX(&gaussian_kl_bwd));
  m.impl("vae_loss_fwd", TORCH_BOX(&vae_loss_fwd));
  m.impl("vae_loss_bwd", TORCH_BOX(&vae_loss_bwd));
  m.impl("vae_loss_bwd_stored_", TORCH_BOX(&vae_loss_bwd_stored_));
}

}  // namespace pyaegpu::cuda
