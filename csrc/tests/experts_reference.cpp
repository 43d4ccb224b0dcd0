#include "experts_reference.h"

#include <algorithm>
#include <cmath>

#include "numbers.h"

namespace fuzz {
namespace {

const double kFloatRoundoff = roundoff_of(HEADGATE_FLOAT32);
// No activation here is steeper: GELU's slope peaks at 1.129, SiLU's (of any sigmoid slope) at 1.0998.
constexpr double kSteepest = 1.13;
// The activations' own errors, in units of |z| * 2^-24. GELU for negative z is a difference of numbers near 1/2, off by a
// few roundings each; exp of an argument up to 88 is off by that argument's own rounding, 88 / 2 units, where it is
// below e^-16.
constexpr double kActivationRoundings = 16.0;
// What flushing products below float32's normal range to zero may lose: 2^-126 for each of thousands.
constexpr double kFlushed = 0x1p-100;

// Rounded to a storage type.
Bounded store(const Bounded& exact, int dtype) {
  const double off = roundoff_of(dtype) * (std::fabs(exact.value) + exact.error) + smallest_roundoff_of(dtype);
  return {exact.value, exact.error + off};
}

// A sum of products of exact numbers and bounded ones, in float32: n + 1 roundings at most touch each term, whatever the
// order (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, section 4.2).
class Sum {
 public:
  void add(double factor, const Bounded& term) {
    value_ += factor * term.value;
    error_ += std::fabs(factor) * term.error;
    magnitude_ += std::fabs(factor) * (std::fabs(term.value) + term.error);
    ++num_terms_;
  }

  Bounded total() const { return {value_, error_ + (num_terms_ + 1) * kFloatRoundoff * magnitude_ + kFlushed}; }

 private:
  double value_ = 0.0, error_ = 0.0, magnitude_ = 0.0;
  int num_terms_ = 0;
};

double activate(double z, const headgate_function& f) {
  switch (f.activation) {
    case HEADGATE_SILU:
      return z / (1.0 + std::exp(-static_cast<double>(f.sigmoid_slope) * z));
    case HEADGATE_GELU:
      return z * 0.5 * std::erfc(-z * std::sqrt(0.5));
    case HEADGATE_GELU_TANH:
      return z * 0.5 * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (z + 0.044715 * z * z * z)));
    default:
      return std::max(z, 0.0);
  }
}

Bounded activate(const Bounded& z, const headgate_function& f) {
  return {activate(z.value, f),
          kSteepest * z.error + kActivationRoundings * kFloatRoundoff * (std::fabs(z.value) + z.error) + kFlushed};
}

// act(min(gate, clamp)) * (clip(up, clamp) + offset); cutting off moves no two numbers apart.
Bounded apply_gated(const Bounded& gate, const Bounded& up, const headgate_function& f) {
  const double limit = f.clamp;
  const Bounded a = activate({std::min(gate.value, limit), gate.error}, f);
  const double shifted = std::min(std::max(up.value, -limit), limit) + static_cast<double>(f.up_offset);
  const double off = up.error + kFloatRoundoff * (std::fabs(shifted) + up.error);
  const double product = a.value * shifted;
  const double error = std::fabs(a.value) * off + std::fabs(shifted) * a.error + a.error * off;
  return {product, error + kFloatRoundoff * (std::fabs(product) + error) + kFlushed};
}

double element(const headgate_matrices& m, int dtype, std::int64_t expert, std::int64_t row, std::int64_t column) {
  return read(m.data, dtype, expert * m.expert_stride + row * m.row_stride + column * m.column_stride);
}

// Row `row` of a projection times inputs, plus bias: float32, or half precision where that is the storage type.
Bounded project(const headgate_matrices& m, int dtype, std::int64_t expert, std::int64_t row, std::int64_t num_rows,
                const std::vector<Bounded>& inputs) {
  Sum sum;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    sum.add(element(m, dtype, expert, row, static_cast<std::int64_t>(k)), inputs[k]);
  }
  if (m.bias != nullptr) sum.add(1.0, {read(m.bias, dtype, expert * num_rows + row), 0.0});
  return dtype == HEADGATE_FLOAT16 ? store(sum.total(), dtype) : sum.total();
}

std::vector<Bounded> compute_hidden(const headgate_experts& call, const std::vector<Bounded>& up_row) {
  const headgate_function& f = call.function;
  std::vector<Bounded> hidden;
  for (std::int64_t i = 0; i < call.d_ff; ++i) {
    const std::int64_t gate = f.is_interleaved ? 2 * i : i, up = f.is_interleaved ? 2 * i + 1 : call.d_ff + i;
    const auto at = [&](std::int64_t index) { return up_row[static_cast<std::size_t>(index)]; };
    hidden.push_back(store(f.is_gated ? apply_gated(at(gate), at(up), f) : activate(at(i), f), call.dtype));
  }
  return hidden;
}

}  // namespace

ExpertsResult run_experts_naively(const ExpertsProblem& problem) {
  const headgate_experts& call = problem.call;
  ExpertsResult result;
  std::vector<std::vector<Bounded>> outputs;
  for (std::int64_t row = 0; row < call.num_rows; ++row) {
    std::vector<Bounded> x;
    for (std::int64_t d = 0; d < call.d_model; ++d) {
      x.push_back({read(call.x, call.dtype, call.token_of_row[row] * call.x_stride + d), 0.0});
    }
    const std::int64_t expert = problem.plan.expert_of_row[static_cast<std::size_t>(row)];
    if (expert >= call.num_experts) {
      outputs.push_back(std::move(x));
      continue;
    }
    std::vector<Bounded> up_row, output;
    for (std::int64_t u = 0; u < problem.up_width(); ++u) {
      up_row.push_back(project(call.up, call.dtype, expert, u, problem.up_width(), x));
      result.up_rows.push_back(store(up_row.back(), call.dtype));
    }
    const std::vector<Bounded> hidden = compute_hidden(call, up_row);
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
