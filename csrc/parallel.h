// Work sharing: phases of numbered tasks, taken by whichever thread is free.
#ifndef HEADGATE_PARALLEL_H
#define HEADGATE_PARALLEL_H

#include <cstdint>

#include "headgate.h"

namespace headgate {

// Hands out the task numbers of one phase. A worker that asks for its next task before it starts on the current
// one can prefetch for it.
class TaskQueue {
 public:
  virtual std::int64_t next() = 0;  // negative: nothing is left

 protected:
  ~TaskQueue() = default;
};

// One phase: `run` is called by every thread that takes part, and must work until the queue is empty. Tasks of a
// phase may run in any order and at the same time; each must write memory of its own.
struct Phase {
  void (*run)(const void* job, TaskQueue& tasks);
  const void* job;
  std::int64_t num_tasks;
};

// Runs the phases one after the other, each beginning when all tasks of the one before are done. All phases share
// one parallel region of the caller's pool. Correct with any number of threads, also where the pool runs its
// pieces one after the other. Returns a headgate_status.
int run_phases(const headgate_threads& threads, const Phase* phases, int num_phases);

// The usual `run` of a phase: calls body(job, task) for each task.
template <typename Job, void (*body)(const Job&, std::int64_t)>
void run_each(const void* job, TaskQueue& tasks) {
  for (std::int64_t task = tasks.next(); task >= 0; task = tasks.next()) body(*static_cast<const Job*>(job), task);
}

}  // namespace headgate

#endif
