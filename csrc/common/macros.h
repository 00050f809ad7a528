// What lets one formula serve the vectorised CPU loops and the CUDA kernels.
#pragma once

#if defined(__CUDACC__)
#define PYAEGPU_HD __host__ __device__ __forceinline__
#define PYAEGPU_UNROLL _Pragma("unroll")
#else
#define PYAEGPU_HD inline __attribute__((always_inline))
#define PYAEGPU_UNROLL _Pragma("GCC unroll 16")
#endif

// One binary for every x86-64: the loader picks the widest clone that the processor runs. A clone
// must sit on the function that holds the loop, and v3 is asked for by name because plain avx2
// lacks FMA.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define PYAEGPU_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define PYAEGPU_CLONES
#endif
