// The phases of the experts' gradients for one instruction set and storage type. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_GRADIENTS_H
#define HEADGATE_EXPERTS_GRADIENTS_H

#include "panels.h"
#include "phases.h"

namespace headgate {
namespace {

template <class S>
inline void load_rows(const S* from, std::int64_t num_rows, std::int64_t num_outputs, std::int64_t row_stride,
                      std::int64_t step, float* values) {
  for (std::int64_t i = 0; i < num_rows; ++i) {
    if (num_outputs == kTileRows && step == 1) {
      for (int r = 0; r < kTileRows; ++r) values[i * kTileRows + r] = widen(from[i * row_stride + r]);
    } else {
      for (int r = 0; r < kTileRows; ++r) {
        values[i * kTileRows + r] = r < num_outputs ? widen(from[i * row_stride + r * step]) : 0.0f;
      }
    }
  }
}

inline void scale_rows(float* values, const float* row_weights, std::int64_t num_rows) {
  for (std::int64_t i = 0; i < num_rows; ++i) {
    for (int r = 0; r < kTileRows; ++r) values[i * kTileRows + r] *= row_weights[i];
  }
}

// The gradient of the hidden units (without the row's weight) becomes that of gate and up (with it). Each row's
// product of hidden units and their gradient, the gradient of its weight, is summed on the way.
template <class Isa, class S>
void run_hidden(const void* context, TaskQueue& tasks) {
  using Element = typename Isa::Element;
  const HiddenJob& job = *static_cast<const HiddenJob*>(context);
  const headgate_experts& e = *job.experts;
  const headgate_function& f = e.function;
  const int halves = f.is_gated ? 2 : 1;
  const std::int64_t step = f.is_gated && f.is_interleaved ? 2 : 1, offset = f.is_interleaved ? 1 : e.d_ff;
  const std::int64_t width = halves * e.d_ff, num_parts = job.projection.tasks_per_piece;
  const std::int64_t outputs_per_part = job.projection.tiles_per_task * kTileRows;
  project<Isa, S>(job.projection, tasks, [&](const Piece& piece, const Block& block, std::int64_t output,
                           std::int64_t num_outputs, const float* sums, const float*) {
    constexpr int kMost = Isa::kLaneTokens * Isa::kMaxVectors * kTileRows;
    alignas(64) float values[2][kMost];
    alignas(64) float gradients[2][kMost];
    alignas(64) float hidden[kMost];
    const std::int64_t row = piece.row + block.begin, num_rows = block.num_rows;
    for (int half = 0; half < halves; ++half) {
      const S* const rows = static_cast<const S*>(job.up_rows) + row * width + output * step + half * offset;
      load_rows(rows, num_rows, num_outputs, width, step, values[half]);
    }
    differentiate_function(values[0], values[halves - 1], sums, gradients[0], gradients[1], hidden,
                           static_cast<int>(num_rows) * kTileRows, f);
    float* const parts = job.weight_parts + row * num_parts + output / outputs_per_part;
    const bool is_first = output % outputs_per_part == 0;
    for (std::int64_t i = 0; i < num_rows; ++i) {
      float total = 0.0f;
      for (int r = 0; r < num_outputs; ++r) total += hidden[i * kTileRows + r] * sums[i * kTileRows + r];
      parts[i * num_parts] = is_first ? total : parts[i * num_parts] + total;
    }
    const std::int64_t place = row - job.first_row;
    scale_rows(hidden, e.row_weights + row, num_rows);
    Element* const hidden_rows = static_cast<Element*>(job.hidden) + place * e.d_ff + output;
    store_rows(hidden, num_rows, num_outputs, hidden_rows, e.d_ff, 1);
    for (int half = 0; half < halves; ++half) {
      scale_rows(gradients[half], e.row_weights + row, num_rows);
      Element* const rows = static_cast<Element*>(job.up_gradients) + place * width + output * step + half * offset;
      store_rows(gradients[half], num_rows, num_outputs, rows, width, step);
    }
  });
}

// out[c] = sum over an expert's rows of row_weights[r] * rows[r][first + c], or without weights where they are null.
template <class Source, class S>
void sum_rows(const RowSource& source, const ExpertRows& rows, const float* row_weights, std::int64_t first,
              std::int64_t size, S* out) {
  float total[kWeightRowsPerTask] = {};
  for (std::int64_t r = rows.row; r < rows.row + rows.num_rows; ++r) {
    const Source* const values = row_at<Source>(source, r) + first;
    const float weight = row_weights == nullptr ? 1.0f : row_weights[r];
    for (std::int64_t c = 0; c < size; ++c) total[c] += weight * widen(values[c]);
  }
  for (std::int64_t c = 0; c < size; ++c) narrow(total[c], &out[c]);
}

// Some rows of one expert's gradients: of `down` (outputs by hidden units), then of `up` (gate and up by inputs).
template <class Isa, class S>
void compute_weights(const WeightsJob& job, std::int64_t task) {
  using Element = typename Isa::Element;
  const headgate_experts& e = *job.experts;
  const headgate_gradients& g = *job.gradients;
  const std::int64_t width = (e.function.is_gated ? 2 : 1) * e.d_ff;
  const std::int64_t down_tasks = divide_up(e.d_model, kWeightRowsPerTask);
  const std::int64_t tasks_per_expert = down_tasks + divide_up(width, kWeightRowsPerTask);
  const std::int64_t expert = job.first_expert + task / tasks_per_expert, place = task % tasks_per_expert;
  const ExpertRows& rows = job.rows[expert];
  const bool is_down = place < down_tasks;
  const std::int64_t first = (is_down ? place : place - down_tasks) * kWeightRowsPerTask;
  const std::int64_t num_rows = is_down ? e.d_model : width, num_columns = is_down ? e.d_ff : e.d_model;
  const std::int64_t size = first + kWeightRowsPerTask < num_rows ? kWeightRowsPerTask : num_rows - first;
  if (void* const out = is_down ? g.down : g.up) {
    const Panels<Isa> a(is_down ? job.dy : job.up_gradients, rows, num_rows);
    const Panels<Isa> b(is_down ? job.hidden : job.x, rows, num_columns);
    write_gradient(a, first, size, b, num_columns, static_cast<S*>(out) + expert * num_rows * num_columns);
  }
  if (is_down && g.down_bias != nullptr) {
    const RowSource dy{g.dy, g.dy_stride, e.token_of_row, 0};
    sum_rows<S>(dy, rows, e.row_weights, first, size, static_cast<S*>(g.down_bias) + expert * num_rows + first);
  }
  if (!is_down && g.up_bias != nullptr) {
    S* const out = static_cast<S*>(g.up_bias) + expert * num_rows + first;
    sum_rows<Element>(job.up_gradient_rows, rows, nullptr, first, size, out);
  }
}

template <class S>
inline float dot(const S* a, const S* b, std::int64_t size) {
  constexpr int kParallel = 16;
  float total[kParallel] = {};
  std::int64_t i = 0;
  for (; i + kParallel <= size; i += kParallel) {
    for (int j = 0; j < kParallel; ++j) total[j] += widen(a[i + j]) * widen(b[i + j]);
  }
  for (; i < size; ++i) total[0] += widen(a[i]) * widen(b[i]);
  float sum = 0.0f;
  for (const float part : total) sum += part;
  return sum;
}

template <class S>
void compute_row_weights(const RowWeightsJob& job, std::int64_t task) {
  const headgate_experts& e = *job.experts;
  const headgate_gradients& g = *job.gradients;
  const std::int64_t num_computed = e.expert_offsets[e.num_experts];
  const std::int64_t begin = task * kRowsPerTask, end = begin + kRowsPerTask;
  std::int64_t expert = 0;
  for (std::int64_t row = begin; row < end && row < e.num_rows; ++row) {
    const S* const dy = static_cast<const S*>(g.dy) + e.token_of_row[row] * g.dy_stride;
    float total = 0.0f;
    if (row < num_computed) {
      while (e.expert_offsets[expert + 1] <= row) ++expert;
      for (std::int64_t i = 0; i < job.num_parts; ++i) total += job.parts[row * job.num_parts + i];
      if (e.down.bias != nullptr) {
        total += dot(dy, static_cast<const S*>(e.down.bias) + expert * e.d_model, e.d_model);
      }
    } else {
      total = dot(dy, static_cast<const S*>(e.x) + e.token_of_row[row] * e.x_stride, e.d_model);
    }
    g.row_weights[row] = total;
  }
}

}  // namespace
}  // namespace headgate

#endif
