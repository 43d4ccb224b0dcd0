#include <cmath>
#include <cstring>

#include "checks.h"
#include "experts_problem.h"
#include "experts_reference.h"
#include "numbers.h"

namespace fuzz {
namespace {

ExactMemory make_nans(std::int64_t size, int dtype, std::int64_t misaligned_elements) {
  ExactMemory memory(size * bytes_of(dtype), misaligned_elements * bytes_of(dtype));
  for (std::int64_t i = 0; i < size; ++i) write(static_cast<double>(NAN), memory.data(), dtype, i);
  return memory;
}

void require_close(const char* name, const ExactMemory& actual, const std::vector<Bounded>& expected, int dtype) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = read(actual.data(), dtype, static_cast<std::int64_t>(i));
    // Written so that a NaN fails.
    if (std::fabs(value - expected[i].value) <= expected[i].error) continue;
    throw Mismatch(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(value) + ", expected " +
                   std::to_string(expected[i].value) + " +- " + std::to_string(expected[i].error));
  }
}

// The comparison itself: one number that is off by more than it may be must not pass.
void require_that_errors_show(Random& random, const ExactMemory& y, const std::vector<Bounded>& expected, int dtype) {
  if (expected.empty()) return;
  const std::int64_t at = random.below(static_cast<std::int64_t>(expected.size()));
  const Bounded& right = expected[static_cast<std::size_t>(at)];
  const double before = read(y.data(), dtype, at);
  // Storing it rounds by less than one error.
  write(right.value + 3.0 * right.error, y.data(), dtype, at);
  bool is_seen = false;
  try {
    require_close("y", y, expected, dtype);
  } catch (const Mismatch&) {
    is_seen = true;
  }
  require(is_seen, "a wrong y passes");
  write(before, y.data(), dtype, at);
}

void require_same_bits(const char* what, const ExactMemory& one, const ExactMemory& other) {
  const auto size = static_cast<std::size_t>(one.num_bytes());
  require(size == 0 || std::memcmp(one.data(), other.data(), size) == 0, what);
}

void compare_with_reference(Random& random, const ExpertsProblem& problem) {
  const headgate_experts& call = problem.call;
  const std::int64_t y_size = call.num_tokens * call.d_model, up_size = problem.num_computed() * problem.up_width();
  const ExactMemory y = make_nans(y_size, call.dtype, random.below(3));
  const ExactMemory up_rows = make_nans(up_size, call.dtype, random.below(3));
  require(headgate_experts_forward(&call, y.data(), up_rows.data()) == HEADGATE_OK, "status is not HEADGATE_OK");
  const ExpertsResult expected = run_experts_naively(problem);
  require_close("up_rows", up_rows, expected.up_rows, call.dtype);
  require_close("y", y, expected.y, call.dtype);
  require_that_errors_show(random, y, expected.y, call.dtype);

  headgate_experts alone = call;
  alone.threads = {nullptr, 1};
  const ExactMemory again = make_nans(y_size, call.dtype, 0);
  require(headgate_experts_forward(&alone, again.data(), nullptr) == HEADGATE_OK, "status of one thread");
  require_same_bits("one thread and no up_rows give other bits", y, again);
}

void require_refusals(const ExpertsProblem& problem) {
  const auto status = [&](auto change) {
    headgate_experts call = problem.call;
    change(call);
    return headgate_experts_forward(&call, nullptr, nullptr);
  };
  using Call = headgate_experts;
  require(headgate_experts_forward(nullptr, nullptr, nullptr) == HEADGATE_BAD_ARGUMENT, "null is not refused");
  require(status([](Call& c) { c.isa = 4; }) == HEADGATE_BAD_ARGUMENT, "isa 4 is not refused");
  require(status([](Call& c) { c.dtype = 3; }) == HEADGATE_BAD_ARGUMENT, "dtype 3 is not refused");
  require(status([](Call& c) { c.d_model = 0; }) == HEADGATE_BAD_ARGUMENT, "D 0 is not refused");
  require(status([](Call& c) { c.num_tokens = -1; }) == HEADGATE_BAD_ARGUMENT, "T -1 is not refused");
  const auto spread = [](headgate_matrices& m) { m.row_stride = m.column_stride = 2; };
  require(status([&](Call& c) { spread(c.up); }) == HEADGATE_BAD_ARGUMENT, "strides of up are not refused");
  require(status([&](Call& c) { spread(c.down); }) == HEADGATE_BAD_ARGUMENT, "strides of down are not refused");
}

}  // namespace

void check_experts_forward(Random& random) {
  const ExpertsProblem problem = make_experts_problem(random);
  try {
    compare_with_reference(random, problem);
    require_refusals(problem);
  } catch (const Mismatch& mismatch) {
    throw Mismatch(problem.description + ": " + mismatch.what());
  }
}

}  // namespace fuzz
