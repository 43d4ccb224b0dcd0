#include <algorithm>
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

void require_close(const char* name, const ExactMemory& actual, const BoundedArray& expected, int dtype) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = read(actual.data(), dtype, static_cast<std::int64_t>(i));
    // Written so that a NaN fails.
    if (std::fabs(value - expected[i].value) <= expected[i].error) continue;
    throw Mismatch(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(value) + ", expected " +
                   std::to_string(expected[i].value) + " +- " + std::to_string(expected[i].error));
  }
}

// The comparison itself: one number that is off by more than it may be must not pass.
void require_that_errors_show(Random& random, const ExactMemory& y, const BoundedArray& expected, int dtype) {
  if (expected.empty()) return;
  const std::int64_t at = random.below(static_cast<std::int64_t>(expected.size()));
  const Bounded& right = expected[static_cast<std::size_t>(at)];
  const double before = read(y.data(), dtype, at);
  // Storing it rounds by less than one error.
  write(right.value + 3.0 * right.error, y.data(), dtype, at);
  bool is_seen = false;
  try {
    require_close("it", y, expected, dtype);
  } catch (const Mismatch&) {
    is_seen = true;
  }
  require(is_seen, "a wrong number passes");
  write(before, y.data(), dtype, at);
}

void require_same_bits(const char* what, const ExactMemory& one, const ExactMemory& other) {
  const auto size = static_cast<std::size_t>(one.num_bytes());
  require(size == 0 || std::memcmp(one.data(), other.data(), size) == 0, what);
}

// The same rows by way of a choice, one slot per row and token: weights by slot, ids of either width, and no plan.
void compare_choice(Random& random, const ExpertsProblem& problem, const ExactMemory& y) {
  const headgate_experts& call = problem.call;
  std::int64_t most = 1;
  for (std::int64_t t = 0; t < call.num_tokens; ++t) {
    most = std::max(most, call.token_offsets[t + 1] - call.token_offsets[t]);
  }
  // Zero-compute experts are no business of a choice, and rows of a token are added in the order of its slots.
  if (problem.num_computed() != call.num_rows) return;
  const std::int64_t num_slots = call.num_tokens * most;
  const bool are_narrow = random.one_in(2);
  const ExactArray<std::int64_t> wide(num_slots);
  const ExactArray<std::int32_t> narrow(num_slots);
  const ExactArray<float> weights(num_slots);
  for (std::int64_t slot = 0; slot < num_slots; ++slot) {
    const std::int64_t t = slot / most, place = call.token_offsets[t] + slot % most;
    const bool is_row = place < call.token_offsets[t + 1];
    const std::int64_t row = is_row ? call.row_order[place] : 0;
    const std::int64_t nobody = random.one_in(2) ? -1 : call.num_experts;
    wide[slot] = is_row ? problem.plan.expert_of_row[static_cast<std::size_t>(row)] : nobody;
    narrow[slot] = static_cast<std::int32_t>(wide[slot]);
    weights[slot] = is_row ? call.row_weights[row] : 1.0f;
  }
  const void* const ids = are_narrow ? static_cast<const void*>(narrow.data()) : wide.data();
  const headgate_choice choice{ids, are_narrow, weights.data(), HEADGATE_FLOAT32, most};
  headgate_experts unplanned = call;
  unplanned.num_rows = -1;
  unplanned.token_of_row = unplanned.expert_offsets = unplanned.row_order = unplanned.token_offsets = nullptr;
  unplanned.row_weights = nullptr;
  const ExactMemory chosen = make_nans(call.num_tokens * call.d_model, call.dtype, 0);
  require(headgate_experts_on_choice(&unplanned, &choice, chosen.data()) == HEADGATE_OK, "status on a choice");
  require_same_bits("a choice gives other bits than its plan", y, chosen);
}

void compare_forward(Random& random, const ExpertsProblem& problem) {
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
  compare_choice(random, problem, y);
}

ExactMemory make_numbers(Random& random, std::int64_t size, int dtype) {
  ExactMemory memory(size * bytes_of(dtype), random.below(3) * bytes_of(dtype));
  for (std::int64_t i = 0; i < size; ++i) write(random.symmetric(), memory.data(), dtype, i);
  return memory;
}

// The six gradients, each in memory of its own; some of them may not be wanted.
struct GradientMemory {
  std::vector<ExactMemory> memory;  // dx, row_weights, up, up_bias, down, down_bias
  std::vector<bool> is_wanted;

  GradientMemory(Random& random, const ExpertsProblem& p) {
    const headgate_experts& call = p.call;
    const std::int64_t up_size = call.num_experts * p.up_width(), down_size = call.num_experts * call.d_model;
    const std::int64_t sizes[] = {call.num_tokens * call.d_model, call.num_rows,          up_size * call.d_model,
                                  up_size,                        down_size * call.d_ff, down_size};
    const bool wants_all = random.one_in(2);
    for (std::size_t i = 0; i < 6; ++i) {
      memory.push_back(make_nans(sizes[i], i == 1 ? HEADGATE_FLOAT32 : call.dtype, i == 1 ? 0 : random.below(3)));
      is_wanted.push_back(wants_all || random.one_in(2));
    }
  }

  void fill(headgate_gradients& g) const {
    const auto at = [&](std::size_t i) { return is_wanted[i] ? memory[i].data() : nullptr; };
    g.dx = at(0);
    g.row_weights = static_cast<float*>(at(1));
    g.up = at(2);
    g.up_bias = at(3);
    g.down = at(4);
    g.down_bias = at(5);
  }
};

void compare_backward(Random& random, const ExpertsProblem& problem) {
  const headgate_experts& call = problem.call;
  headgate_gradients g{};
  g.dy_stride = random.one_in(12) ? 0 : call.d_model + (random.one_in(3) ? random.below(9) : 0);
  const std::int64_t dy_size = call.num_tokens > 0 ? (call.num_tokens - 1) * g.dy_stride + call.d_model : 0;
  const ExactMemory dy = make_numbers(random, dy_size, call.dtype);
  const ExactMemory up_rows = make_numbers(random, problem.num_computed() * problem.up_width(), call.dtype);
  g.dy = dy.data();
  g.up_rows = up_rows.data();
  const ExpertsGradients expected = differentiate_experts_naively(problem, g);
  const GradientMemory found(random, problem), again(random, problem);
  found.fill(g);
  require(headgate_experts_backward(&call, &g) == HEADGATE_OK, "status is not HEADGATE_OK");
  headgate_experts alone = call;
  alone.threads = {nullptr, 1};
  again.fill(g);
  require(headgate_experts_backward(&alone, &g) == HEADGATE_OK, "status of one thread");

  static const char* const kNames[] = {"dx", "row_weights", "up", "up_bias", "down", "down_bias"};
  const BoundedArray* const all[] = {&expected.dx,      &expected.row_weights, &expected.up,
                                     &expected.up_bias, &expected.down,        &expected.down_bias};
  for (std::size_t i = 0; i < 6; ++i) {
    if (!found.is_wanted[i]) continue;
    const int dtype = i == 1 ? HEADGATE_FLOAT32 : call.dtype;
    require_close(kNames[i], found.memory[i], *all[i], dtype);
    require_that_errors_show(random, found.memory[i], *all[i], dtype);
    if (again.is_wanted[i]) require_same_bits("one thread gives other gradients", found.memory[i], again.memory[i]);
  }
}

// What both functions refuse.
void require_refusals(const ExpertsProblem& problem) {
  const headgate_gradients none{};
  const auto refuses = [&](auto change) {
    headgate_experts call = problem.call;
    change(call);
    return headgate_experts_forward(&call, nullptr, nullptr) == HEADGATE_BAD_ARGUMENT &&
           headgate_experts_backward(&call, &none) == HEADGATE_BAD_ARGUMENT;
  };
  using Call = headgate_experts;
  require(headgate_experts_forward(nullptr, nullptr, nullptr) == HEADGATE_BAD_ARGUMENT, "null is not refused");
  require(headgate_experts_backward(nullptr, &none) == HEADGATE_BAD_ARGUMENT, "null is not refused");
  require(headgate_experts_backward(&problem.call, nullptr) == HEADGATE_BAD_ARGUMENT, "null gradients are not refused");
  require(refuses([](Call& c) { c.isa = 4; }), "isa 4 is not refused");
  require(refuses([](Call& c) { c.dtype = 3; }), "dtype 3 is not refused");
  require(refuses([](Call& c) { c.d_model = 0; }), "D 0 is not refused");
  require(refuses([](Call& c) { c.num_tokens = -1; }), "T -1 is not refused");
  const auto spread = [](headgate_matrices& m) { m.row_stride = m.column_stride = 2; };
  require(refuses([&](Call& c) { spread(c.up); }), "strides of up are not refused");
  require(refuses([&](Call& c) { spread(c.down); }), "strides of down are not refused");
}

void run_round(Random& random, void (*compare)(Random& random, const ExpertsProblem& problem)) {
  const ExpertsProblem problem = make_experts_problem(random);
  try {
    compare(random, problem);
    require_refusals(problem);
  } catch (const Mismatch& mismatch) {
    throw Mismatch(problem.description + ": " + mismatch.what());
  }
}

}  // namespace

void check_experts_forward(Random& random) { run_round(random, compare_forward); }

void check_experts_backward(Random& random) { run_round(random, compare_backward); }

}  // namespace fuzz
