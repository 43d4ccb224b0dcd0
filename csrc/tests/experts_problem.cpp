#include "experts_problem.h"

#include <cmath>
#include <thread>

#include "numbers.h"

namespace fuzz {
namespace {

struct Sizes {
  std::int64_t num_tokens, d_model, d_ff, num_experts, num_zero_experts, most_choices;
};

// Mostly small, since one round checks every product; now and then as large as it takes to reach the code for it.
Sizes draw_sizes(Random& random) {
  Sizes s{random.below(24),      random.between(1, 70), random.between(1, 70),
          random.between(1, 12), random.below(3),       random.between(1, 4)};
  switch (random.below(24)) {
    case 0:  // weight rows longer than one pass, in place (4 KiB) and staged (1 KiB)
    case 1:
      s.d_model = random.between(250, 2200);
      s.d_ff = random.between(1, 12);
      break;
    case 2:
      s.d_ff = random.between(250, 2200);
      s.d_model = random.between(1, 12);
      break;
    case 3:  // more tiles than one task takes
      s.d_ff = random.between(130, 600);
      s.d_model = random.between(130, 300);
      s.num_tokens = random.below(3);
      break;
    case 4:  // more rows than one piece takes
      s = {random.between(760, 1600), random.between(1, 10), random.between(1, 10), 1, random.below(2), 1};
      break;
    case 5:
      if (!random.one_in(4)) break;
      // inputs and outputs of more than 4 MiB, which are not held whole
      s = {random.between(120, 140), random.between(1100, 1200), random.between(1, 3), random.between(16, 20), 0, 16};
      break;
    case 6:
      s.num_tokens = 0;
      break;
    case 7:
      s.num_experts = 0;
      break;
    default:
      break;
  }
  return s;
}

// Draws a token's experts: distinct, out of all of them (zero-compute ones come last) or of a favoured few.
class Chooser {
 public:
  Chooser(Random& random, const Sizes& sizes) : random_(random), num_choices_(sizes.num_experts + sizes.num_zero_experts) {
    style_ = random.below(5);
    favourite_ = num_choices_ > 0 ? random.below(num_choices_) : 0;
    skip_begin_ = num_choices_ > 0 ? random.below(num_choices_) : 0;
    skip_end_ = skip_begin_ + random.below(num_choices_ + 1);
  }

  const char* name() const {
    static const char* const kNames[] = {"uniform", "skewed", "all to one", "some empty", "with drops"};
    return kNames[style_];
  }

  // The experts of one token, each once.
  std::vector<std::int64_t> choose(std::int64_t most) {
    std::vector<std::int64_t> chosen;
    if (num_choices_ == 0) return chosen;
    for (std::int64_t k = 0; k < most; ++k) {
      const std::int64_t expert = draw();
      bool is_new = expert >= 0;
      for (const std::int64_t other : chosen) is_new = is_new && other != expert;
      if (is_new) chosen.push_back(expert);
    }
    return chosen;
  }

 private:
  std::int64_t draw() {
    if (style_ == 1) {  // each next expert gets about half of what the one before gets
      std::int64_t expert = 0;
      while (expert + 1 < num_choices_ && random_.one_in(2)) ++expert;
      return expert;
    }
    if (style_ == 2) return favourite_;
    const std::int64_t expert = random_.below(num_choices_);
    if (style_ == 3) return skip_begin_ <= expert && expert < skip_end_ ? -1 : expert;
    if (style_ == 4 && random_.one_in(3)) return -1;
    return expert;
  }

  Random& random_;
  std::int64_t num_choices_, style_ = 0, favourite_ = 0, skip_begin_ = 0, skip_end_ = 0;
};

// Sorts the choices by expert, one expert after the other: slow and plain.
Plan make_plan(Random& random, const Sizes& sizes, const std::vector<std::vector<std::int64_t>>& choices) {
  Plan plan;
  std::int64_t num_rows = 0;
  plan.token_offsets = ExactArray<std::int64_t>(sizes.num_tokens + 1);
  for (std::int64_t t = 0; t < sizes.num_tokens; ++t) {
    plan.token_offsets[t] = num_rows;
    num_rows += static_cast<std::int64_t>(choices[static_cast<std::size_t>(t)].size());
  }
  plan.token_offsets[sizes.num_tokens] = num_rows;
  plan.token_of_row = ExactArray<std::int64_t>(num_rows);
  plan.row_order = ExactArray<std::int64_t>(num_rows);
  plan.row_weights = ExactArray<float>(num_rows);
  plan.expert_offsets = ExactArray<std::int64_t>(sizes.num_experts + 1);
  std::int64_t row = 0;
  for (std::int64_t expert = 0; expert < sizes.num_experts + sizes.num_zero_experts; ++expert) {
    if (expert <= sizes.num_experts) plan.expert_offsets[expert] = row;
    for (std::int64_t t = 0; t < sizes.num_tokens; ++t) {
      const std::vector<std::int64_t>& chosen = choices[static_cast<std::size_t>(t)];
      for (std::size_t k = 0; k < chosen.size(); ++k) {
        if (chosen[k] != expert) continue;
        plan.token_of_row[row] = t;
        plan.row_order[plan.token_offsets[t] + static_cast<std::int64_t>(k)] = row;
        plan.row_weights[row] = random.one_in(20) ? 0.0f : static_cast<float>(random.symmetric());
        plan.expert_of_row.push_back(expert);
        ++row;
      }
    }
  }
  if (sizes.num_zero_experts == 0) plan.expert_offsets[sizes.num_experts] = row;
  return plan;
}

// An array whose elements are all NaN, until `fill` writes those that may be read.
ExactMemory make_poisoned(std::int64_t num_elements, int dtype, std::int64_t misaligned_elements) {
  ExactMemory memory(num_elements * bytes_of(dtype), misaligned_elements * bytes_of(dtype));
  for (std::int64_t i = 0; i < num_elements; ++i) write(static_cast<double>(NAN), memory.data(), dtype, i);
  return memory;
}

// About 1 / sqrt(n), so that values neither grow nor vanish from one projection to the next.
double scale_for(std::int64_t num_inputs) { return 1.5 / std::sqrt(static_cast<double>(num_inputs)); }

// [E, rows, columns] in one of the layouts that may be read in place: [rows][columns] or [columns][rows], packed or
// with gaps (NaN), or one matrix for all experts.
headgate_matrices make_matrices(Random& random, int dtype, std::int64_t num_experts, std::int64_t rows,
                                std::int64_t columns, ExactMemory& memory, std::string& description) {
  const bool is_transposed = random.one_in(3), has_gaps = random.one_in(3), is_shared = random.one_in(12);
  const std::int64_t inner = is_transposed ? rows : columns, outer = is_transposed ? columns : rows;
  const std::int64_t stride = inner + (has_gaps ? random.between(1, 20) : 0);
  const std::int64_t size = outer > 0 && inner > 0 ? (outer - 1) * stride + inner : 0;
  const std::int64_t expert_stride = is_shared ? 0 : size + (has_gaps ? random.below(30) : 0);
  const std::int64_t misaligned = random.one_in(3) ? random.between(1, 7) : 0;
  memory = make_poisoned(num_experts > 0 ? (num_experts - 1) * expert_stride + size : 0, dtype, misaligned);
  headgate_matrices m{memory.data(), expert_stride, is_transposed ? 1 : stride, is_transposed ? stride : 1, nullptr};
  for (std::int64_t e = 0; e < num_experts; ++e) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t index = e * m.expert_stride + r * m.row_stride + c * m.column_stride;
        write(random.symmetric() * scale_for(columns), memory.data(), dtype, index);
      }
    }
  }
  description += is_transposed ? " transposed" : " usual";
  description += std::string(has_gaps ? "+gaps" : "") + (is_shared ? "+shared" : "") + (misaligned ? "+unaligned" : "");
  return m;
}

ExactMemory make_bias(Random& random, int dtype, std::int64_t size) {
  ExactMemory memory = make_poisoned(size, dtype, random.below(2));
  for (std::int64_t i = 0; i < size; ++i) write(random.symmetric(), memory.data(), dtype, i);
  return memory;
}

headgate_function draw_function(Random& random) {
  headgate_function f{};
  f.activation = static_cast<int>(random.below(4));
  f.is_gated = random.one_in(4) ? 0 : 1;
  f.is_interleaved = random.one_in(3) ? 1 : 0;
  f.clamp = random.one_in(3) ? 0.5f : INFINITY;
  f.sigmoid_slope = random.one_in(3) ? 1.702f : 1.0f;
  f.up_offset = random.one_in(3) ? 1.0f : 0.0f;
  return f;
}

void draw_tokens(Random& random, ExpertsProblem& problem) {
  headgate_experts& call = problem.call;
  const std::int64_t gap = random.one_in(3) ? random.between(1, 9) : 0;
  call.x_stride = random.one_in(12) ? 0 : call.d_model + gap;
  const std::int64_t size = call.num_tokens > 0 ? (call.num_tokens - 1) * call.x_stride + call.d_model : 0;
  problem.x = make_poisoned(size, call.dtype, random.one_in(3) ? random.between(1, 7) : 0);
  call.x = problem.x.data();
  for (std::int64_t t = 0; t < call.num_tokens; ++t) {
    for (std::int64_t d = 0; d < call.d_model; ++d) {
      write(random.symmetric(), problem.x.data(), call.dtype, t * call.x_stride + d);
    }
  }
}

void draw_weights(Random& random, ExpertsProblem& problem) {
  headgate_experts& call = problem.call;
  const std::int64_t width = problem.up_width();
  problem.description += ", up";
  call.up = make_matrices(random, call.dtype, call.num_experts, width, call.d_model, problem.up, problem.description);
  problem.description += ", down";
  call.down =
      make_matrices(random, call.dtype, call.num_experts, call.d_model, call.d_ff, problem.down, problem.description);
  if (random.one_in(2)) {
    problem.up_bias = make_bias(random, call.dtype, call.num_experts * width);
    call.up.bias = problem.up_bias.data();
  }
  if (random.one_in(2)) {
    problem.down_bias = make_bias(random, call.dtype, call.num_experts * call.d_model);
    call.down.bias = problem.down_bias.data();
  }
}

std::string describe(const headgate_experts& call) {
  const headgate_function& f = call.function;
  const auto text = [](std::int64_t value) { return std::to_string(value); };
  return "T " + text(call.num_tokens) + ", D " + text(call.d_model) + ", F " + text(call.d_ff) + ", E " +
         text(call.num_experts) + ", R " + text(call.num_rows) + ", isa " + text(call.isa) + ", dtype " +
         text(call.dtype) + ", threads " + text(call.threads.num_threads) + ", activation " + text(f.activation) +
         (f.is_gated ? " gated" : "") + (f.is_interleaved ? " interleaved" : "");
}

// A host's loop that has one thread: it runs its pieces one after the other, the last first.
int run_in_turn(std::int64_t begin, std::int64_t end, std::int64_t,
                void (*body)(std::int64_t, std::int64_t, void*), void* context) {
  for (std::int64_t i = end; i > begin; --i) body(i - 1, i, context);
  return 0;
}

// A host's loop that gives every piece a thread of its own, so that none is the caller's.
int run_at_once(std::int64_t begin, std::int64_t end, std::int64_t,
                void (*body)(std::int64_t, std::int64_t, void*), void* context) {
  std::vector<std::thread> threads;
  for (std::int64_t i = begin; i < end; ++i) threads.emplace_back(body, i, i + 1, context);
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace

int pick_isa(Random& random) { return static_cast<int>(random.between(HEADGATE_ISA_BEST, headgate_best_isa())); }

headgate_threads pick_threads(Random& random) {
  const headgate_parallel_for hosts[] = {nullptr, nullptr, nullptr, run_in_turn, run_at_once};
  return {random.pick(hosts), static_cast<int>(random.between(0, 4))};
}

ExpertsProblem make_experts_problem(Random& random) {
  const Sizes sizes = draw_sizes(random);
  Chooser chooser(random, sizes);
  std::vector<std::vector<std::int64_t>> choices;
  for (std::int64_t t = 0; t < sizes.num_tokens; ++t) choices.push_back(chooser.choose(sizes.most_choices));
  ExpertsProblem problem;
  problem.plan = make_plan(random, sizes, choices);
  headgate_experts& call = problem.call;
  call.isa = pick_isa(random);
  call.dtype = static_cast<int>(random.below(3));
  call.threads = pick_threads(random);
  call.function = draw_function(random);
  call.num_tokens = sizes.num_tokens;
  call.d_model = sizes.d_model;
  call.d_ff = sizes.d_ff;
  call.num_experts = sizes.num_experts;
  call.num_rows = problem.plan.token_of_row.size();
  call.token_of_row = problem.plan.token_of_row.data();
  call.expert_offsets = problem.plan.expert_offsets.data();
  call.row_order = problem.plan.row_order.data();
  call.token_offsets = problem.plan.token_offsets.data();
  call.row_weights = problem.plan.row_weights.data();
  problem.description = describe(call) + ", " + chooser.name();
  draw_tokens(random, problem);
  draw_weights(random, problem);
  return problem;
}

}  // namespace fuzz
