// Bias and activation in one pass on a GPU, and their derivative. Schemas and autograd:
// pyaegpu/ops/conv_transpose_graph.py.

#include <algorithm>
#include <numeric>
#include <tuple>

#include "../common/activations.h"
#include "activations.cuh"
#include "arguments.h"
#include "partials.cuh"
#include "vectors.cuh"

namespace pyaegpu::cuda {
namespace {

// Groups of 16 bytes that a thread of bias_act_kernel takes.
constexpr int kSteps = 4;

template <typename T>
struct BiasActArgs {
  T* y;
  const T* bias;
  int64_t numel;
  int64_t inner;  // elements from one channel to the next, of a dense y
  int64_t channels;
  int64_t activation;
  Accumulator<T> slope;
  bool vectors;
};

// The channels of `count` elements from `first` on: P counts within inner * channels.
template <typename P>
struct ChannelWalk {
  P inner, channels, channel, left;  // `left` of the channel's run

  __device__ ChannelWalk(int64_t inner_, int64_t channels_, P position)
      : inner(P(inner_)),
        channels(P(channels_)),
        channel(position / inner % channels),
        left(inner - position % inner) {}

  __device__ void next() {
    if (--left > 0) return;
    left = inner;
    if (++channel == channels) channel = 0;
  }
};

template <int N, typename P, typename T>
__device__ void bias_act(const BiasActArgs<T>& args, P position, Vector<T>& y) {
  using A = Accumulator<T>;
  ChannelWalk<P> walk(args.inner, args.channels, position);
  const bool one = walk.left >= P(N);
  A bias = args.bias ? A(args.bias[walk.channel]) : A(0);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    y.values[j] = T(activate_by(args.activation, A(y.values[j]) + bias, args.slope));
    if (one || !args.bias || j == N - 1) continue;
    walk.next();
    bias = A(args.bias[walk.channel]);
  }
}

// P: an integer that holds inner * channels and a block's elements besides.
template <typename T, typename P>
__global__ void __launch_bounds__(kThreads, 4) bias_act_kernel(BiasActArgs<T> args) {
  constexpr int kSize = Vector<T>::kSize, kBlock = kThreads * kSize * kSteps;
  const int64_t begin = int64_t(blockIdx.x) * kBlock;
  const P position = P(begin % (args.inner * args.channels));
  const int count = int(min(int64_t(kBlock), args.numel - begin));
  const int whole = args.vectors ? count / kSize * kSize : 0;
  const auto first = [](int k) { return (k * kThreads + int(threadIdx.x)) * kSize; };
  // All loads before the first store, so that they are in flight together.
  Vector<T> y[kSteps];
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    if (first(k) < whole) read<kSize>(args.y + begin + first(k), y[k]);
  }
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    if (first(k) >= whole) continue;
    bias_act<kSize>(args, P(position + first(k)), y[k]);
    write<kSize>(args.y + begin + first(k), y[k]);
  }
#pragma unroll 1
  for (int i = whole + threadIdx.x; i < count; i += kThreads) {
    read<1>(args.y + begin + i, y[0]);
    bias_act<1>(args, P(position + i), y[0]);
    write<1>(args.y + begin + i, y[0]);
  }
}

template <typename T>
struct GradientArgs {
  const T *g, *out;
  T* d_y;
  Accumulator<T>* sums;  // null where the bias needs none
  int64_t numel, inner, channels, images;
  int64_t activation;
  Accumulator<T> slope;
  int64_t period, rows;          // of columns_kernel: the groups of a row and the rows of a block
  int64_t groups, chunk, batch;  // of runs_kernel: groups of a run and of a team, images of a team
  int team;                      // threads
};

// Steps that a thread takes before its sums are added to others'.
constexpr int kGradientSteps = 16;

// The gradient of N elements from `first` on, added to sums.
template <int N, typename T>
__device__ void gradient(const GradientArgs<T>& args, int64_t first, Accumulator<T> (&sums)[N]) {
  using A = Accumulator<T>;
  Vector<T> g, out, d_y;
  read<N>(args.g + first, g);
  read<N>(args.out + first, out);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const A value = gradient_by(args.activation, A(g.values[j]), A(out.values[j]), args.slope);
    sums[j] += value;
    d_y.values[j] = T(value);
  }
  write<N>(args.d_y + first, d_y);
}

// Channels innermost. The flat order is cut into rows of whole groups and whole sets of channels,
// so that a thread, which stays in its column, always has the same channels.
template <int N, typename T>
__global__ void __launch_bounds__(kThreads, 3) gradient_columns_kernel(GradientArgs<T> args) {
  using A = Accumulator<T>;
  __shared__ A shared[kThreads * N];
  const int64_t left = args.period - int64_t(blockIdx.y) * kThreads;
  const int width = int(min(left, int64_t(kThreads))), height = kThreads / width;
  const int row = threadIdx.x / width, column = threadIdx.x % width;
  const int64_t begin = blockIdx.x * args.rows;
  A sums[N] = {};
  if (row < height) {
#pragma unroll 2
    for (int64_t r = row; r < args.rows; r += height) {
      const int64_t group = (begin + r) * args.period + int64_t(blockIdx.y) * kThreads + column;
      if (group * N < args.numel) gradient<N>(args, group * N, sums);
    }
  }
  if (!args.sums) return;
#pragma unroll
  for (int j = 0; j < N; ++j) shared[threadIdx.x * N + j] = sums[j];
  __syncthreads();
  for (int i = threadIdx.x; i < width * N; i += kThreads) {
    A sum = 0;
    for (int r = 0; r < height; ++r) sum += shared[r * width * N + i];
    const int64_t at = int64_t(blockIdx.y) * kThreads * N + i;
    args.sums[at * gridDim.x + blockIdx.x] = sum;
  }
}

// Channels in runs of `inner` elements, whole groups: a team takes one channel of some images.
template <int N, typename T>
__global__ void __launch_bounds__(kThreads, 3) gradient_runs_kernel(GradientArgs<T> args) {
  using A = Accumulator<T>;
  const int team = args.team, lane = threadIdx.x % team;
  const int64_t parts = (args.groups + args.chunk - 1) / args.chunk;
  const int64_t batches = (args.images + args.batch - 1) / args.batch;
  const int64_t id = int64_t(blockIdx.x) * (kThreads / team) + threadIdx.x / team;
  const int64_t part = id % parts, channel = id / parts % args.channels;
  const int64_t batch = id / parts / args.channels;
  const int64_t last = min((batch + 1) * args.batch, args.images);
  const int64_t end = min((part + 1) * args.chunk, args.groups);
  A sums[N] = {};
  for (int64_t n = batch * args.batch; n < last; ++n) {
    const int64_t run = (n * args.channels + channel) * args.inner;
#pragma unroll 2
    for (int64_t group = part * args.chunk + lane; group < end; group += team) {
      gradient<N>(args, run + group * N, sums);
    }
  }
  if (!args.sums) return;
  A sum = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) sum += sums[j];
  if (team == kThreads) {
    sum = block_sum(sum);
  } else {
    for (int offset = team / 2; offset > 0; offset /= 2) {
      sum += __shfl_down_sync(0xffffffffu, sum, offset, team);
    }
  }
  if (lane == 0 && batch < batches) {
    args.sums[(channel * batches + batch) * parts + part] = sum;
  }
}

bool aligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0; }

// Elements from one channel to the next in the flat order of a dense tensor.
int64_t inner_of(const Tensor& t) { return t.size(1) == 1 ? 1 : t.stride(1); }

void bias_act_(Tensor y, MaybeTensor bias, int64_t activation, double slope) {
  if (y.numel() == 0) return;
  const Launch launch(y);
  if (bias) bias = torch::stable::contiguous(*bias);
  Tensor flat = is_dense(y) ? y : torch::stable::contiguous(y);
  dispatch(y.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    BiasActArgs<T> args{};
    args.y = flat.mutable_data_ptr<T>();
    args.bias = bias ? bias->const_data_ptr<T>() : nullptr;
    args.numel = flat.numel();
    args.inner = inner_of(flat);
    args.channels = flat.size(1);
    args.activation = activation;
    args.slope = static_cast<Accumulator<T>>(slope);
    args.vectors = aligned(flat);
    constexpr int64_t kBlock = kThreads * Vector<T>::kSize * kSteps;
    const unsigned blocks = blocks_for(ceil_div(args.numel, kBlock));
    if (args.inner * args.channels + kBlock <= UINT32_MAX) {
      bias_act_kernel<T, uint32_t><<<blocks, kThreads, 0, launch.stream()>>>(args);
    } else {
      bias_act_kernel<T, uint64_t><<<blocks, kThreads, 0, launch.stream()>>>(args);
    }
    launch.check("bias_act_");
  });
  if (flat.data_ptr() != y.data_ptr()) torch::stable::copy_(y, flat);
}

// The partial sums of a bias's gradient, as channel_sum takes them.
struct Sums {
  Tensor values;
  int64_t repeats, parts;
};

template <typename T>
Sums new_sums(const Tensor& like, bool needed, int64_t channels, int64_t repeats, int64_t parts,
              GradientArgs<T>& args) {
  const int64_t size = needed ? channels * repeats * parts : 0;
  Sums sums{new_empty(like, {size}, accumulator(like.scalar_type())), repeats, parts};
  args.sums = needed ? sums.values.mutable_data_ptr<Accumulator<T>>() : nullptr;
  return sums;
}

template <int N, typename T>
Sums run_columns(const Launch& launch, GradientArgs<T> args, const Tensor& like, bool needed) {
  const int64_t width = std::lcm(args.channels, int64_t(N)), rows = ceil_div(args.numel, width);
  args.period = width / N;
  const int64_t height = kThreads / std::min<int64_t>(args.period, kThreads);
  args.rows = std::max(height * kGradientSteps, ceil_div(rows, 4096));
  const dim3 blocks(blocks_for(ceil_div(rows, args.rows)),
                    unsigned(ceil_div(args.period, kThreads)));
  const Sums sums = new_sums(like, needed, args.channels, width / args.channels, blocks.x, args);
  gradient_columns_kernel<N><<<blocks, kThreads, 0, launch.stream()>>>(args);
  launch.check("bias_act_bwd");
  return sums;
}

// Threads for a run of so many groups: no more than the run keeps busy.
int team_of(int64_t groups) {
  if (groups > 32 * kGradientSteps) return kThreads;
  int team = 1;
  while (team < 32 && team < groups) team *= 2;
  return team;
}

template <int N, typename T>
Sums run_runs(const Launch& launch, GradientArgs<T> args, const Tensor& like, bool needed) {
  args.images = args.numel / (args.inner * args.channels);
  args.groups = args.inner / N;
  args.team = team_of(args.groups);
  args.chunk = std::min<int64_t>(args.groups, args.team * kGradientSteps);
  args.batch = std::max<int64_t>(1, kGradientSteps / ceil_div(args.chunk, args.team));
  const int64_t parts = ceil_div(args.groups, args.chunk) * ceil_div(args.images, args.batch);
  const Sums sums = new_sums(like, needed, args.channels, 1, parts, args);
  const unsigned blocks = blocks_for(ceil_div(args.channels * parts * args.team, kThreads));
  gradient_runs_kernel<N><<<blocks, kThreads, 0, launch.stream()>>>(args);
  launch.check("bias_act_bwd");
  return sums;
}

template <typename T>
Sums run_gradient(const Launch& launch, GradientArgs<T> args, const Tensor& like, bool vectors,
                  bool needed) {
  constexpr int kSize = Vector<T>::kSize;
  // Without sums, every element is alike.
  if (!needed) args.inner = args.channels = 1;
  if (args.inner == 1) {
    return vectors && args.numel % kSize == 0 ? run_columns<kSize>(launch, args, like, needed)
                                              : run_columns<1>(launch, args, like, needed);
  }
  return vectors && args.inner % kSize == 0 ? run_runs<kSize>(launch, args, like, needed)
                                            : run_runs<1>(launch, args, like, needed);
}

std::tuple<Tensor, Tensor> bias_act_bwd(Tensor g, Tensor out, bool need_bias, int64_t activation,
                                        double slope) {
  const Launch launch(g);
  if (!is_dense(out)) out = torch::stable::contiguous(out);
  g = matched(g, out);
  Tensor d_y = torch::stable::empty_like(out);
  Tensor d_bias = new_empty(g, {need_bias ? out.size(1) : 0}, out.scalar_type());
  if (out.numel() == 0) return {d_y, torch::stable::zero_(d_bias)};
  dispatch(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    GradientArgs<T> args{};
    args.g = g.const_data_ptr<T>();
    args.out = out.const_data_ptr<T>();
    args.d_y = d_y.mutable_data_ptr<T>();
    args.numel = out.numel();
    args.inner = inner_of(out);
    args.channels = out.size(1);
    args.activation = activation;
    args.slope = static_cast<Accumulator<T>>(slope);
    const bool vectors = aligned(g) && aligned(out) && aligned(d_y);
    const Sums sums = run_gradient(launch, args, g, vectors, need_bias);
    if (need_bias) channel_sum<T>(launch, sums.values, sums.repeats, sums.parts, d_bias);
  });
  return {d_y, d_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cuda, CUDA, m) {
  m.impl("bias_act_", TORCH_BOX(&bias_act_));
  m.impl("bias_act_bwd", TORCH_BOX(&bias_act_bwd));
}

}  // namespace pyaegpu::cuda
