#include <cmath>

#include "activations.h"
#include "experts_reference.h"

namespace fuzz {
namespace {

// One row's share of the gradients: of its hidden units as `down` sees them, and of gate and up, both times the row's
// weight and in the storage type at the coarsest.
struct RowGradients {
  BoundedArray weighted_hidden, up_row;
  Sum row_weight;
};

class Differentiator {
 public:
  Differentiator(const ExpertsProblem& problem, const headgate_gradients& gradients)
      : call_(problem.call), plan_(problem.plan), gradients_(gradients), width_(problem.up_width()) {}

  double x(std::int64_t token, std::int64_t d) const { return read(call_.x, call_.dtype, token * call_.x_stride + d); }
  double dy(std::int64_t token, std::int64_t d) const {
    return read(gradients_.dy, call_.dtype, token * gradients_.dy_stride + d);
  }

  RowGradients differentiate_row(std::int64_t row) const {
    const std::int64_t token = call_.token_of_row[row], expert = plan_.expert_of_row[static_cast<std::size_t>(row)];
    RowGradients result;
    result.up_row.resize(static_cast<std::size_t>(width_));
    for (std::int64_t i = 0; i < call_.d_ff; ++i) {
      Sum d_hidden;
      for (std::int64_t d = 0; d < call_.d_model; ++d) {
        d_hidden.add(dy(token, d), {element(call_.down, call_.dtype, expert, d, i), 0.0});
      }
      differentiate_unit(row, i, d_hidden.total(), result);
    }
    for (std::int64_t d = 0; d < call_.d_model && call_.down.bias != nullptr; ++d) {
      result.row_weight.add(dy(token, d), {read(call_.down.bias, call_.dtype, expert * call_.d_model + d), 0.0});
    }
    return result;
  }

 private:
  void differentiate_unit(std::int64_t row, std::int64_t i, const Bounded& d_hidden, RowGradients& result) const {
    const headgate_function& f = call_.function;
    const UpColumns at = up_columns(call_, i);
    const double weight = static_cast<double>(call_.row_weights[row]), limit = f.clamp;
    const double gate = read(gradients_.up_rows, call_.dtype, row * width_ + at.gate);
    const double up = read(gradients_.up_rows, call_.dtype, row * width_ + at.up);
    const Bounded hidden = apply_function(f, {gate, 0.0}, {up, 0.0});
    result.row_weight.add(1.0, multiply(hidden, d_hidden));
    const auto weigh = [&](const Bounded& value) { return store(multiply(value, {weight, 0.0}), call_.dtype); };
    result.weighted_hidden.push_back(weigh(hidden));
    Bounded& d_gate = result.up_row[static_cast<std::size_t>(at.gate)];
    if (!f.is_gated) {
      d_gate = weigh(multiply(d_hidden, differentiate_at(gate, f)));
      return;
    }
    // A value that was cut passes no gradient on.
    const double shifted = std::fmin(std::fmax(up, -limit), limit) + static_cast<double>(f.up_offset);
    const Bounded through_gate = multiply({shifted, kFloatRoundoff * std::fabs(shifted)}, differentiate_at(gate, f));
    const Bounded through_up = activate(Bounded{std::fmin(gate, limit), 0.0}, f);
    if (gate <= limit) d_gate = weigh(multiply(d_hidden, through_gate));
    if (std::fabs(up) <= limit) result.up_row[static_cast<std::size_t>(at.up)] = weigh(multiply(d_hidden, through_up));
  }

  const headgate_experts& call_;
  const Plan& plan_;
  const headgate_gradients& gradients_;
  std::int64_t width_;
};

BoundedArray finish(const std::vector<Sum>& sums, int dtype) {
  BoundedArray result;
  for (const Sum& sum : sums) result.push_back(store(sum.total(), dtype));
  return result;
}

std::vector<Sum> make_sums(std::int64_t size) { return std::vector<Sum>(static_cast<std::size_t>(size)); }

// The sums over rows that the gradients are.
struct Totals {
  std::vector<Sum> dx, up, up_bias, down, down_bias;
};

void add_row(const ExpertsProblem& problem, const Differentiator& of, std::int64_t row, const RowGradients& gradients,
             Totals& totals) {
  const headgate_experts& call = problem.call;
  const std::int64_t token = call.token_of_row[row], width = problem.up_width();
  const std::int64_t expert = problem.plan.expert_of_row[static_cast<std::size_t>(row)];
  const auto at = [](std::vector<Sum>& sums, std::int64_t index) -> Sum& { return sums[static_cast<std::size_t>(index)]; };
  for (std::int64_t u = 0; u < width; ++u) {
    const Bounded& gradient = gradients.up_row[static_cast<std::size_t>(u)];
    at(totals.up_bias, expert * width + u).add(1.0, gradient);
    for (std::int64_t d = 0; d < call.d_model; ++d) {
      at(totals.up, (expert * width + u) * call.d_model + d).add(of.x(token, d), gradient);
    }
  }
  for (std::int64_t d = 0; d < call.d_model; ++d) {
    at(totals.down_bias, expert * call.d_model + d).add(static_cast<double>(call.row_weights[row]), {of.dy(token, d), 0.0});
    for (std::int64_t i = 0; i < call.d_ff; ++i) {
      const Bounded& hidden = gradients.weighted_hidden[static_cast<std::size_t>(i)];
      at(totals.down, (expert * call.d_model + d) * call.d_ff + i).add(of.dy(token, d), hidden);
    }
    Sum back;
    for (std::int64_t u = 0; u < width; ++u) {
      back.add(element(call.up, call.dtype, expert, u, d), gradients.up_row[static_cast<std::size_t>(u)]);
    }
    // Half precision rounds, as it does after every projection.
    const Bounded total = call.dtype == HEADGATE_FLOAT16 ? store(back.total(), call.dtype) : back.total();
    at(totals.dx, token * call.d_model + d).add(1.0, total);
  }
}

}  // namespace

ExpertsGradients differentiate_experts_naively(const ExpertsProblem& problem, const headgate_gradients& gradients) {
  const headgate_experts& call = problem.call;
  const Differentiator of(problem, gradients);
  const std::int64_t up_size = call.num_experts * problem.up_width(), down_size = call.num_experts * call.d_model;
  Totals totals{make_sums(call.num_tokens * call.d_model), make_sums(up_size * call.d_model), make_sums(up_size),
                make_sums(down_size * call.d_ff), make_sums(down_size)};
  std::vector<Sum> row_weights = make_sums(call.num_rows);
  for (std::int64_t row = 0; row < call.num_rows; ++row) {
    const std::int64_t token = call.token_of_row[row];
    Sum& row_weight = row_weights[static_cast<std::size_t>(row)];
    if (row < problem.num_computed()) {
      const RowGradients one = of.differentiate_row(row);
      row_weight = one.row_weight;
      add_row(problem, of, row, one, totals);
      continue;
    }
    for (std::int64_t d = 0; d < call.d_model; ++d) {  // A zero-compute expert gave back its input.
      row_weight.add(of.dy(token, d), {of.x(token, d), 0.0});
      totals.dx[static_cast<std::size_t>(token * call.d_model + d)].add(static_cast<double>(call.row_weights[row]),
                                                                        {of.dy(token, d), 0.0});
    }
  }
  return {finish(totals.dx, call.dtype),      finish(row_weights, HEADGATE_FLOAT32), finish(totals.up, call.dtype),
          finish(totals.up_bias, call.dtype), finish(totals.down, call.dtype),       finish(totals.down_bias, call.dtype)};
}

}  // namespace fuzz
