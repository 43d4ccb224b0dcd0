#include "experts_reference.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "activations.h"

namespace fuzz {
namespace {

// Row `row` of a projection times inputs, plus bias: float32, or half precision where that is the storage type.
Bounded project(const headgate_matrices& m, int dtype, std::int64_t expert, std::int64_t row, std::int64_t num_rows,
                const BoundedArray& inputs) {
  Sum sum;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    sum.add(element(m, dtype, expert, row, static_cast<std::int64_t>(k)), inputs[k]);
  }
  if (m.bias != nullptr) sum.add(1.0, {read(m.bias, dtype, expert * num_rows + row), 0.0});
  return dtype == HEADGATE_FLOAT16 ? store(sum.total(), dtype) : sum.total();
}

BoundedArray compute_hidden(const headgate_experts& call, const BoundedArray& up_row) {
  BoundedArray hidden;
  for (std::int64_t i = 0; i < call.d_ff; ++i) {
    const UpColumns at = up_columns(call, i);
    const Bounded gate = up_row[static_cast<std::size_t>(at.gate)], up = up_row[static_cast<std::size_t>(at.up)];
    hidden.push_back(store(apply_function(call.function, gate, up), call.dtype));
  }
  return hidden;
}

}  // namespace

double element(const headgate_matrices& m, int dtype, std::int64_t expert, std::int64_t row, std::int64_t column) {
  return read(m.data, dtype, expert * m.expert_stride + row * m.row_stride + column * m.column_stride);
}

UpColumns up_columns(const headgate_experts& call, std::int64_t hidden) {
  if (!call.function.is_gated) return {hidden, hidden};
  if (call.function.is_interleaved) return {2 * hidden, 2 * hidden + 1};
  return {hidden, call.d_ff + hidden};
}

// act(min(gate, clamp)) * (clip(up, clamp) + offset); cutting off moves no two numbers apart.
Bounded apply_function(const headgate_function& f, const Bounded& gate, const Bounded& up) {
  if (!f.is_gated) return activate(gate, f);
  const double limit = f.clamp;
  const double shifted = std::min(std::max(up.value, -limit), limit) + static_cast<double>(f.up_offset);
  const Bounded other{shifted, up.error + kFloatRoundoff * (std::fabs(shifted) + up.error)};
  return multiply(activate(Bounded{std::min(gate.value, limit), gate.error}, f), other);
}

ExpertsResult run_experts_naively(const ExpertsProblem& problem) {
  const headgate_experts& call = problem.call;
  ExpertsResult result;
  std::vector<BoundedArray> outputs;
  for (std::int64_t row = 0; row < call.num_rows; ++row) {
    BoundedArray x;
    for (std::int64_t d = 0; d < call.d_model; ++d) {
      x.push_back({read(call.x, call.dtype, call.token_of_row[row] * call.x_stride + d), 0.0});
    }
    const std::int64_t expert = problem.plan.expert_of_row[static_cast<std::size_t>(row)];
    if (expert >= call.num_experts) {
      outputs.push_back(std::move(x));
      continue;
    }
    BoundedArray up_row, output;
    for (std::int64_t u = 0; u < problem.up_width(); ++u) {
      up_row.push_back(project(call.up, call.dtype, expert, u, problem.up_width(), x));
      result.up_rows.push_back(store(up_row.back(), call.dtype));
    }
    const BoundedArray hidden = compute_hidden(call, up_row);
    for (std::int64_t d = 0; d < call.d_model; ++d) {
      output.push_back(project(call.down, call.dtype, expert, d, call.d_model, hidden));
    }
    outputs.push_back(std::move(output));
  }
  for (std::int64_t t = 0; t < call.num_tokens; ++t) {
    for (std::size_t d = 0; d < static_cast<std::size_t>(call.d_model); ++d) {
      Sum sum;
      for (std::int64_t i = call.token_offsets[t]; i < call.token_offsets[t + 1]; ++i) {
        const std::int64_t row = call.row_order[i];
        sum.add(static_cast<double>(call.row_weights[row]), outputs[static_cast<std::size_t>(row)][d]);
      }
      result.y.push_back(store(sum.total(), call.dtype));
    }
  }
  return result;
}

}  // namespace fuzz
