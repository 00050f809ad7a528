// What every launch needs: the device guard, torch's current stream, and a check that the launch
// was accepted.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../common/tensor.h"

namespace pyaegpu::cuda {

// Makes a tensor's device current and holds its stream for the launches of one op.
class Launch {
 public:
  explicit Launch(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  void check(const char* op) const {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "pyaegpu: the launch of ", op,
                    " failed: ", cudaGetErrorString(error));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

constexpr int kThreads = 256;
// Enough warps to hide the latency of memory; asking for more has the compiler spill registers.
constexpr int kBlocksPerSM = 3;

inline unsigned blocks_for(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "pyaegpu: a launch of ", blocks, " blocks is too large");
  return static_cast<unsigned>(blocks);
}

}  // namespace pyaegpu::cuda
