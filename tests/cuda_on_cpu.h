// What CUDA gives to ``sparker/_cuda.cu``, for a C++ compiler: the threads of a block are threads of the CPU, blocks come
// one after the other. Included in front of the source by tests/test_device.py, which appends the launchers.
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct Dim {
  unsigned x, y;
};
static thread_local Dim threadIdx, blockIdx;
static Dim gridDim;
static std::unique_ptr<std::barrier<>> together;

static void __syncthreads() { together->arrive_and_wait(); }

template <class Kernel>
static void launch(unsigned x, unsigned y, int n_threads, Kernel kernel) {
  together = std::make_unique<std::barrier<>>(n_threads);
  gridDim = {x, y};
  std::vector<std::thread> threads;
  for (int t = 0; t < n_threads; ++t)
    threads.emplace_back([=] {
      threadIdx.x = t;
      for (unsigned j = 0; j < y; ++j)
        for (unsigned i = 0; i < x; ++i) {
          blockIdx = {i, j};
          kernel();
          together->arrive_and_wait();
        }
    });
  for (auto& thread : threads) thread.join();
}
