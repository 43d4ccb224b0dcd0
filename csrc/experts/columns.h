// The projection where weights are transposed: an input's weights of consecutive outputs lie together. Internal
// linkage, see elements.h.
//
// A task covers some hundred outputs, so that whole stretches of memory are read. For one pass of inputs after the
// other, weights are copied into panels of pairs (two inputs that are multiplied together lie together), and these are
// multiplied with all rows of a superblock, while the weights of the next pass are fetched. Each sum runs over the
// inputs in their order, pass by pass.
#ifndef HEADGATE_EXPERTS_COLUMNS_H
#define HEADGATE_EXPERTS_COLUMNS_H

#include "pack.h"

namespace headgate {
namespace {

constexpr std::int64_t kPassBytes = 256;       // of each column
constexpr std::int64_t kBlocksPerCopy = 12;    // more would push their sums out of the second cache

// to[row * kColumnsPerTask + lane] (+)= sum over inputs of x[row, input] * w[input, lane], for R rows of a block.
template <class Isa, int R>
void multiply_tokens(const typename Isa::Element* w, const typename Isa::Element* x, std::int64_t x_stride,
                     std::int64_t num_chunks, float* to, bool add) {
  constexpr int kVectors = Isa::kColumnVectors, kPair = Panels<Isa>::kPair, kLanes = Panels<Isa>::kLanes;
  constexpr int kChunk = chunk_of<Isa>();
  typename Isa::Sum sums[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Isa::zero();
  }
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk, x += x_stride) {
    for (int i = 0; i < kChunk; i += kPair, w += kVectors * kLanes * kPair) {
      typename Isa::Vector columns[kVectors];
      for (int v = 0; v < kVectors; ++v) columns[v] = Isa::load(w + v * kLanes * kPair);
      for (int r = 0; r < R; ++r) {
        const typename Isa::Vector row = Isa::broadcast_pair(x + r * kChunk + i);
        for (int v = 0; v < kVectors; ++v) sums[r][v] = Isa::multiply_add(columns[v], row, sums[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) Isa::store(sums[r][v], to + r * kColumnsPerTask + v * kLanes, add);
  }
}

template <class Isa, class S>
class ColumnProjector {
 public:
  using Element = typename Isa::Element;
  static constexpr std::int64_t kChunk = chunk_of<Isa>();
  static constexpr std::int64_t kPair = Panels<Isa>::kPair;
  static constexpr std::int64_t kWidth = Panels<Isa>::kLanes * Isa::kColumnVectors;  // of a panel
  static constexpr std::int64_t kPass = kPassBytes / static_cast<std::int64_t>(sizeof(Element));
  static constexpr std::int64_t kBlockTokens = Isa::kLaneTokens * Isa::kMaxVectors;

  explicit ColumnProjector(const Projection& projection)
      : p_(projection), padded_inputs_(round_up(projection.num_inputs, kChunk)) {}

  // As Projector::run.
  template <class Epilogue>
  void run(TaskQueue& tasks, const Epilogue& epilogue) {
    std::int64_t task = tasks.next();
    while (task >= 0) {
      const Span span = span_of(task);
      const std::int64_t num_blocks = count_blocks(span.piece->num_rows, packing_of<Isa>());
      std::int64_t next_task = -1;
      for (std::int64_t first = 0; first < num_blocks; first += kBlocksPerCopy) {
        const bool is_last = first + kBlocksPerCopy >= num_blocks;
        const std::int64_t last = is_last ? num_blocks : first + kBlocksPerCopy;
        for (std::int64_t k = 0; k < p_.num_inputs; k += kPass) {
          const bool is_last_pass = k + kPass >= p_.num_inputs;
          if (is_last && is_last_pass) next_task = tasks.next();
          stage(span, k);
          if (!is_last_pass) {
            aim(span, k + kPass);
          } else if (!is_last) {
            aim(span, 0);
          } else if (next_task >= 0) {
            aim(span_of(next_task), 0);
          }
          multiply(span, k, first, last);
        }
        for (std::int64_t b = first; b < last; ++b) finish(span, first, b, epilogue);
      }
      task = next_task;
    }
  }

 private:
  // Outputs of a task. Gate and up are two stretches of memory, or one where they alternate.
  struct Span {
    const Piece* piece;
    std::int64_t begin, num_outputs;
    int stretches;
    std::int64_t num_columns, padded_columns;  // of a stretch
  };

  // What is fetched ahead, row by row.
  struct Ahead {
    const char* data[2];
    int stretches;
    std::int64_t stride, num_rows, num_bytes;  // bytes
    std::int64_t stretch, row;
  };

  Span span_of(std::int64_t task) const {
    const std::int64_t each = p_.tiles_per_task * kTileRows, begin = task % p_.tasks_per_piece * each;
    const std::int64_t left = p_.num_outputs - begin, num_outputs = left < each ? left : each;
    const int stretches = p_.row_step > 1 ? 1 : p_.halves;
    const std::int64_t num_columns = num_outputs * p_.row_step;
    return {p_.pieces.data + task / p_.tasks_per_piece, begin, num_outputs, stretches, num_columns,
            round_up(num_columns, kWidth)};
  }

  const S* weights_at(const Span& span, int stretch, std::int64_t input) const {
    const std::int64_t output = (p_.first_output + span.begin) * p_.row_step + stretch * p_.half_offset;
    return static_cast<const S*>(p_.weights.data) + span.piece->expert * p_.weights.expert_stride +
           output * p_.weights.row_stride + input * p_.weights.column_stride;
  }

  std::int64_t pass_size(std::int64_t k) const { return k + kPass < p_.num_inputs ? kPass : p_.num_inputs - k; }

  // Copies the weights of one pass into panels [panel][pair][column][2].
  void stage(const Span& span, std::int64_t k) {
    const std::int64_t size = pass_size(k), padded = round_up(size, kChunk);
    for (int stretch = 0; stretch < span.stretches; ++stretch) {
      for (std::int64_t i = 0; i < padded; i += kPair) {
        const S* rows[kPair];
        for (std::int64_t j = 0; j < kPair; ++j) {
          rows[j] = i + j < size ? weights_at(span, stretch, k + i + j) : nullptr;
        }
        Element* to = staged_ + (stretch * span.padded_columns * kPass) + i * kWidth;
        for (std::int64_t c = 0; c < span.num_columns; c += kWidth, to += kPass * kWidth) {
          const std::int64_t left = span.num_columns - c, columns = left < kWidth ? left : kWidth;
          if (i >= size) {
            for (std::int64_t e = 0; e < kWidth * kPair; ++e) to[e] = Element{};
            continue;
          }
          if (columns == kWidth) {  // a constant, for the compiler
            interleave<Isa>(rows, kWidth, kWidth, to);
          } else {
            interleave<Isa>(rows, columns, kWidth, to);
          }
          for (std::int64_t j = 0; j < kPair; ++j) rows[j] = rows[j] == nullptr ? nullptr : rows[j] + kWidth;
        }
      }
    }
  }

  void aim(const Span& span, std::int64_t k) {
    const std::int64_t bytes = static_cast<std::int64_t>(sizeof(S));
    for (int stretch = 0; stretch < span.stretches; ++stretch) {
      ahead_.data[stretch] = reinterpret_cast<const char*>(weights_at(span, stretch, k));
    }
    ahead_.stretches = span.stretches;
    ahead_.stride = p_.weights.column_stride * bytes;
    ahead_.num_rows = pass_size(k);
    ahead_.num_bytes = span.num_columns * bytes;
    ahead_.stretch = ahead_.row = 0;
  }

  void fetch(std::int64_t num_rows) {
    for (; num_rows > 0 && ahead_.stretch < ahead_.stretches; --num_rows) {
      const char* const row = ahead_.data[ahead_.stretch] + ahead_.row * ahead_.stride;
      for (std::int64_t byte = 0; byte < ahead_.num_bytes; byte += 64) prefetch(row + byte);
      if (++ahead_.row < ahead_.num_rows) continue;
      ahead_.row = 0;
      ++ahead_.stretch;
    }
  }

  // Adds the pass at input k to the sums of the blocks [first, last).
  void multiply(const Span& span, std::int64_t k, std::int64_t first, std::int64_t last) {
    const Packing packing = packing_of<Isa>();
    const Piece& piece = *span.piece;
    const std::int64_t piece_row = p_.pieces.counts_groups ? piece.group_row : piece.packed_row;
    const Element* const packed = static_cast<const Element*>(p_.packed) + piece_row * padded_inputs_;
    const std::int64_t num_chunks = divide_up(pass_size(k), kChunk);
    const std::int64_t num_panels = span.stretches * span.padded_columns / kWidth;
    const std::int64_t rows_each = divide_up(ahead_.stretches * ahead_.num_rows, num_panels * (last - first));
    const std::int64_t first_row = block_at(piece.num_rows, first, packing).begin;
    for (std::int64_t panel = 0; panel < num_panels; ++panel) {
      const Element* const w = staged_ + panel * kPass * kWidth;
      for (std::int64_t b = first; b < last; ++b) {
        fetch(rows_each);
        const Block block = block_at(piece.num_rows, b, packing);
        const Element* const x = packed + block.begin * padded_inputs_ + k * block.packed_rows;
        float* const to = sums_ + (block.begin - first_row) * kColumnsPerTask + panel * kWidth;
        multiply_block(w, x, block.packed_rows, num_chunks, to, k > 0);
      }
    }
  }

  static void multiply_block(const Element* w, const Element* x, std::int64_t num_rows, std::int64_t num_chunks,
                             float* to, bool add) {
    const std::int64_t x_stride = num_rows * kChunk, tiles = divide_up(num_rows, Isa::kColumnRows);
    const std::int64_t rows = num_rows / tiles;  // equal: blocks have 1, 2 or 3 rows, or whole registers of them
    for (std::int64_t row = 0; row < num_rows; row += rows, x += rows * kChunk, to += rows * kColumnsPerTask) {
      switch (rows) {
        case 1:
          multiply_tokens<Isa, 1>(w, x, x_stride, num_chunks, to, add);
          break;
        case 2:
          multiply_tokens<Isa, 2>(w, x, x_stride, num_chunks, to, add);
          break;
        case 3:
          multiply_tokens<Isa, 3>(w, x, x_stride, num_chunks, to, add);
          break;
        case 4:
          multiply_tokens<Isa, 4>(w, x, x_stride, num_chunks, to, add);
          break;
        default:
          multiply_tokens<Isa, 6>(w, x, x_stride, num_chunks, to, add);
      }
    }
  }

  // Hands the sums of one block on, tile by tile.
  template <class Epilogue>
  void finish(const Span& span, std::int64_t first, std::int64_t b, const Epilogue& epilogue) {
    const Packing packing = packing_of<Isa>();
    const Block block = block_at(span.piece->num_rows, b, packing);
    const std::int64_t row = block.begin - block_at(span.piece->num_rows, first, packing).begin;
    const std::int64_t half_columns = p_.row_step > 1 ? 1 : span.padded_columns;
    alignas(64) float tiles[2][kBlockTokens * kTileRows];
    for (std::int64_t output = 0; output < span.num_outputs; output += kTileRows) {
      const std::int64_t left = span.num_outputs - output, num_outputs = left < kTileRows ? left : kTileRows;
      for (int half = 0; half < p_.halves; ++half) {
        const float* const from = sums_ + row * kColumnsPerTask + output * p_.row_step + half * half_columns;
        copy_tile(from, block.packed_rows, num_outputs, tiles[half]);
      }
      epilogue(*span.piece, block, span.begin + output, num_outputs, tiles[0], tiles[p_.halves - 1]);
    }
  }

  void copy_tile(const float* from, std::int64_t num_rows, std::int64_t num_outputs, float* to) const {
    for (std::int64_t i = 0; i < num_rows; ++i, from += kColumnsPerTask, to += kTileRows) {
      if (p_.row_step == 1) {
        for (int r = 0; r < kTileRows; ++r) to[r] = from[r];  // beyond the outputs: sums of zeros, or not used
      } else {
        for (int r = 0; r < kTileRows; ++r) to[r] = r < num_outputs ? from[r * p_.row_step] : 0.0f;
      }
    }
  }

  const Projection& p_;
  std::int64_t padded_inputs_;
  Ahead ahead_{};
  alignas(64) float sums_[kBlocksPerCopy * kBlockTokens * kColumnsPerTask + kTileRows];
  alignas(64) Element staged_[kColumnsPerTask * kPass];
};

}  // namespace
}  // namespace headgate

#endif
