#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace headgate {
namespace {

// On its own cache line each, so that taking a task does not slow down finishing one.
struct alignas(64) Progress {
  std::atomic<std::int64_t> taken{0};
  alignas(64) std::atomic<std::int64_t> finished{0};
};

class SharedQueue final : public TaskQueue {
 public:
  SharedQueue(Progress& progress, std::int64_t num_tasks) : progress_(progress), num_tasks_(num_tasks) {}

  std::int64_t next() override {
    const std::int64_t task = progress_.taken.fetch_add(1, std::memory_order_relaxed);
    if (task >= num_tasks_) return -1;
    ++num_taken_;
    return task;
  }

  // Everything that this thread took is done.
  void finish() { progress_.finished.fetch_add(num_taken_, std::memory_order_acq_rel); }

  // A task that is not finished is in the hands of a running thread, so this ends, however few threads there are.
  void wait_for_others() const {
    for (int spins = 0; progress_.finished.load(std::memory_order_acquire) < num_tasks_; ++spins) {
      if (spins >= kSpinsBeforeYield) std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpinsBeforeYield = 2000;
  Progress& progress_;
  std::int64_t num_tasks_;
  std::int64_t num_taken_ = 0;
};

struct Region {
  const Phase* phases;
  int num_phases;
  Progress* progress;
};

void work(std::int64_t begin, std::int64_t end, void* context) {
  if (begin >= end) return;
  const Region& region = *static_cast<const Region*>(context);
  for (int i = 0; i < region.num_phases; ++i) {
    const Phase& phase = region.phases[i];
    SharedQueue queue(region.progress[i], phase.num_tasks);
    phase.run(phase.job, queue);
    queue.finish();
    queue.wait_for_others();
  }
}

// For a libtorch without a parallel loop to call, and for a child process whose parent's pool did not survive fork.
void run_on_own_threads(int num_threads, Region& region) {
  std::vector<std::thread> helpers;
  try {
    for (int i = 1; i < num_threads; ++i) helpers.emplace_back(work, 0, 1, &region);
  } catch (const std::system_error&) {
    // No more threads can be had: those that started share the work.
  } catch (const std::bad_alloc&) {
  }
  work(0, 1, &region);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

int run_phases(const headgate_threads& threads, const Phase* phases, int num_phases) {
  const std::unique_ptr<Progress[]> progress(new (std::nothrow) Progress[static_cast<std::size_t>(num_phases)]);
  if (!progress) return HEADGATE_OUT_OF_MEMORY;
  Region region{phases, num_phases, progress.get()};
  std::int64_t most_tasks = 1;
  for (int i = 0; i < num_phases; ++i) most_tasks = std::max(most_tasks, phases[i].num_tasks);
  const int num_threads = static_cast<int>(std::min<std::int64_t>(std::max(threads.num_threads, 1), most_tasks));
  if (num_threads == 1) {
    work(0, 1, &region);
  } else if (threads.parallel_for == nullptr) {
    run_on_own_threads(num_threads, region);
  } else if (threads.parallel_for(0, num_threads, 1, work, &region) != 0) {
    return HEADGATE_BAD_ARGUMENT;
  }
  return HEADGATE_OK;
}

}  // namespace headgate
