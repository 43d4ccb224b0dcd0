// The phases of the experts' function for one instruction set and storage type. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_PHASES_H
#define HEADGATE_EXPERTS_PHASES_H

#include "activation.h"
#include "columns.h"
#include "project.h"

namespace headgate {
namespace {

// Calls epilogue(piece, block, output, num_outputs, sums of half 0, sums of half 1) for each tile of outputs and block
// of rows.
template <class Isa, class S, class Epilogue>
inline void project(const Projection& projection, TaskQueue& tasks, const Epilogue& epilogue) {
  if (projection.weights.column_stride == 1) {
    Projector<Isa, S>(projection).run(tasks, epilogue);
  } else {
    ColumnProjector<Isa, S>(projection).run(tasks, epilogue);
  }
}

// values = sums + bias, as storage of type S would hold it: half precision rounds, and overflows, where the operations
// are separate ones; the wider exponents keep float32. Returns `sums` itself where there is nothing to do.
template <class S>
inline const float* finish_sums(const float* sums, const S* bias, std::int64_t bias_step, std::int64_t num_outputs,
                                std::int64_t num_rows, float* values) {
  if (bias == nullptr && !IsSame<S, Half>::value) return sums;
  float added[kTileRows] = {};
  for (std::int64_t r = 0; bias != nullptr && r < num_outputs; ++r) added[r] = widen(bias[r * bias_step]);
  for (std::int64_t i = 0; i < num_rows; ++i) {
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      const float sum = sums[i * kTileRows + r] + added[r];
      values[i * kTileRows + r] = IsSame<S, Half>::value ? round_to<S>(sum) : sum;
    }
  }
  return values;
}

// Stores hidden values [rows][kTileRows] in packed form, zero beyond the last output.
template <class Isa>
inline void store_packed(float* values, const Block& block, std::int64_t output, std::int64_t num_outputs,
                         typename Isa::Element* packed) {
  using Element = typename Isa::Element;
  constexpr std::int64_t kChunk = chunk_of<Isa>();
  if (num_outputs < kTileRows) {
    for (std::int64_t i = 0; i < block.packed_rows; ++i) {
      for (std::int64_t r = num_outputs; r < kTileRows; ++r) values[i * kTileRows + r] = 0.0f;
    }
  }
  const int num_chunks = static_cast<int>(divide_up(num_outputs, kChunk));
  for (int c = 0; c < num_chunks; ++c) {
    Element* const to = packed + (output + c * kChunk) * block.packed_rows;
    if (kChunk == kTileRows) {
      const int size = static_cast<int>(block.packed_rows * kTileRows);
      for (int i = 0; i < size; ++i) narrow(values[i], &to[i]);
    } else {
      for (std::int64_t i = 0; i < block.packed_rows; ++i) {
        for (std::int64_t j = 0; j < kChunk; ++j) narrow(values[i * kTileRows + c * kChunk + j], &to[i * kChunk + j]);
      }
    }
  }
}

template <class S>
inline const S* bias_of(const headgate_matrices& matrices, std::int64_t expert, std::int64_t rows, std::int64_t row) {
  return matrices.bias == nullptr ? nullptr : static_cast<const S*>(matrices.bias) + expert * rows + row;
}

template <class S>
inline void store_rows(const float* values, std::int64_t num_rows, std::int64_t num_outputs, S* to,
                       std::int64_t row_stride, std::int64_t step) {
  if (num_outputs == kTileRows && step == 1) {
    for (std::int64_t i = 0; i < num_rows; ++i) {
      for (int r = 0; r < kTileRows; ++r) narrow(values[i * kTileRows + r], &to[i * row_stride + r]);
    }
    return;
  }
  for (std::int64_t i = 0; i < num_rows; ++i) {
    for (std::int64_t r = 0; r < num_outputs; ++r) narrow(values[i * kTileRows + r], &to[i * row_stride + r * step]);
  }
}

// Gate and up, then the nonlinearity.
template <class Isa, class S>
void run_up(const void* context, TaskQueue& tasks) {
  const UpJob& job = *static_cast<const UpJob*>(context);
  const headgate_experts& e = *job.experts;
  const Projection& p = job.projection;
  const std::int64_t width = p.halves * e.d_ff, padded = round_up(e.d_ff, chunk_of<Isa>());
  project<Isa, S>(p, tasks, [&](const Piece& piece, const Block& block, std::int64_t output,
                           std::int64_t num_outputs, const float* first, const float* second) {
    constexpr int kMost = Isa::kLaneTokens * Isa::kMaxVectors * kTileRows;
    alignas(64) float values[2][kMost];
    alignas(64) float hidden[kMost];
    const float* sums[2] = {first, second};
    for (int half = 0; half < p.halves; ++half) {
      const std::int64_t row = output * p.row_step + half * p.half_offset;
      const S* const bias = bias_of<S>(p.weights, piece.expert, width, row);
      sums[half] = finish_sums(sums[half], bias, p.row_step, num_outputs, block.num_rows, values[half]);
      if (job.up_rows != nullptr) {
        S* const rows = static_cast<S*>(job.up_rows) + (piece.row + block.begin) * width + row;
        store_rows(sums[half], block.num_rows, num_outputs, rows, width, p.row_step);
      }
    }
    apply_function(sums[0], sums[p.halves - 1], hidden, static_cast<int>(block.packed_rows) * kTileRows, e.function);
    if (IsSame<S, Half>::value) {
      for (float& value : hidden) value = round_to<S>(value);
    }
    typename Isa::Element* const packed =
        static_cast<typename Isa::Element*>(job.hidden) + (piece.packed_row + block.begin) * padded;
    store_packed<Isa>(hidden, block, output, num_outputs, packed);
  });
}

// A projection whose results stay rows, for some of the outputs.
template <class Isa, class S>
void run_rows(const void* context, TaskQueue& tasks) {
  const RowsJob& job = *static_cast<const RowsJob*>(context);
  const Projection& p = job.projection;
  project<Isa, S>(p, tasks, [&](const Piece& piece, const Block& block, std::int64_t output,
                           std::int64_t num_outputs, const float* sums, const float*) {
    alignas(64) float values[Isa::kLaneTokens * Isa::kMaxVectors * kTileRows];
    const S* const bias = bias_of<S>(p.weights, piece.expert, job.bias_stride, p.first_output + output);
    sums = finish_sums(sums, bias, 1, num_outputs, block.num_rows, values);
    float* const rows = job.outputs + (piece.row + block.begin) * p.num_outputs + output;
    store_rows(sums, block.num_rows, num_outputs, rows, p.num_outputs, 1);
  });
}

// Adds up each token's rows, in slot order.
template <class S>
void combine_tokens(const CombineJob& job, std::int64_t task) {
  const headgate_experts& e = *job.experts;
  const std::int64_t begin = task * job.tokens_per_task, end = begin + job.tokens_per_task;
  const std::int64_t num_computed = e.expert_offsets[e.num_experts];
  constexpr std::int64_t kStrip = 64;
  for (std::int64_t t = begin; t < end && t < e.num_tokens; ++t) {
    for (std::int64_t d = 0; d < job.width; d += kStrip) {
      const std::int64_t size = d + kStrip < job.width ? kStrip : job.width - d;
      float total[kStrip] = {};
      for (std::int64_t i = e.token_offsets[t]; i < e.token_offsets[t + 1]; ++i) {
        const std::int64_t row = e.row_order[i];
        if (row < num_computed) {
          const float weight = job.is_weighted ? e.row_weights[row] : 1.0f;
          const float* const values = job.outputs + row * job.width + d;
          for (std::int64_t j = 0; j < size; ++j) total[j] += weight * values[j];
        } else {  // A zero-compute expert gives back its input.
          const float weight = e.row_weights[row];
          const S* const values = static_cast<const S*>(job.identity) + t * job.identity_stride + job.begin + d;
          for (std::int64_t j = 0; j < size; ++j) total[j] += weight * widen(values[j]);
        }
      }
      S* const to = static_cast<S*>(job.y) + t * e.d_model + job.begin + d;
      for (std::int64_t j = 0; j < size; ++j) narrow(total[j], &to[j]);
    }
  }
}

}  // namespace
}  // namespace headgate

#endif
