// The projection where an output's weights lie together: which tile meets which block, in which order, and what is
// fetched ahead. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_PROJECT_H
#define HEADGATE_EXPERTS_PROJECT_H

#include "product.h"
#include "staging.h"

namespace headgate {
namespace {

constexpr std::int64_t kInPlaceBytes = 4096;  // of each weight row, per pass over a superblock
constexpr std::int64_t kStagedBytes = 1024;

template <class Isa, class S>
class Projector {
 public:
  using Element = typename Isa::Element;
  static constexpr std::int64_t kChunk = chunk_of<Isa>();
  static constexpr std::int64_t kBlockTokens = Isa::kLaneTokens * Isa::kMaxVectors;

  explicit Projector(const Projection& projection) : p_(projection) {
    is_staged_ = !IsSame<S, Element>::value || p_.num_inputs % kChunk != 0;
    pass_ = (is_staged_ ? kStagedBytes : kInPlaceBytes) / static_cast<std::int64_t>(sizeof(Element));
    padded_inputs_ = round_up(p_.num_inputs, kChunk);
  }

  // Calls epilogue(piece, block, output, num_outputs, sums of half 0, sums of half 1) for each tile of outputs and
  // block of rows.
  template <class Epilogue>
  void run(TaskQueue& tasks, const Epilogue& epilogue) {
    std::int64_t task = tasks.next();
    while (task >= 0) task = run_task(task, tasks, epilogue);
  }

 private:
  struct Span {
    const Piece* piece;
    std::int64_t begin, end;  // tiles
  };

  Span span_of(std::int64_t task) const {
    const std::int64_t begin = task % p_.tasks_per_piece * p_.tiles_per_task;
    const std::int64_t num_tiles = divide_up(p_.num_outputs, kTileRows);
    const std::int64_t end = begin + p_.tiles_per_task;
    return {p_.pieces.data + task / p_.tasks_per_piece, begin, end < num_tiles ? end : num_tiles};
  }

  const S* weights_at(const Piece& piece, std::int64_t output, int half, std::int64_t input) const {
    const headgate_matrices& w = p_.weights;
    const std::int64_t row = (p_.first_output + output) * p_.row_step + half * p_.half_offset;
    return static_cast<const S*>(w.data) + piece.expert * w.expert_stride + row * w.row_stride +
           input * w.column_stride;
  }

  template <class Epilogue>
  std::int64_t run_task(std::int64_t task, TaskQueue& tasks, const Epilogue& epilogue) {
    const Span span = span_of(task);
    const Packing packing = packing_of<Isa>();
    const std::int64_t num_blocks = count_blocks(span.piece->num_rows, packing);
    const std::int64_t piece_row = p_.pieces.counts_groups ? span.piece->group_row : span.piece->packed_row;
    const Element* const packed = static_cast<const Element*>(p_.packed) + piece_row * padded_inputs_;
    std::int64_t next_task = -1;
    for (std::int64_t first = 0; first < num_blocks; first += kSuperblock) {
      const std::int64_t last = first + kSuperblock < num_blocks ? first + kSuperblock : num_blocks;
      for (std::int64_t k = 0; k < p_.num_inputs; k += pass_) {
        const std::int64_t size = k + pass_ < p_.num_inputs ? pass_ : p_.num_inputs - k;
        const bool is_last_pass = k + size == p_.num_inputs;
        for (std::int64_t tile = span.begin; tile < span.end; ++tile) {
          for (int half = 0; half < p_.halves; ++half) {
            const bool is_last = is_last_pass && last == num_blocks && tile + 1 == span.end && half + 1 == p_.halves;
            if (is_last) next_task = tasks.next();
            const Tile<Element> weights = prepare(span, tile, half, k, size, is_last ? next_task : task);
            for (std::int64_t b = first; b < last; ++b) {
              const Block block = block_at(span.piece->num_rows, b, packing);
              const Element* const x = packed + block.begin * padded_inputs_ + k * block.packed_rows;
              Tile<Element> once = weights;
              if (b != first) once.ahead = nullptr;
              float* const sums = sums_at(tile - span.begin, half, b - first);
              multiply<Isa>(once, x, block, divide_up(size, kChunk), sums, k > 0);
            }
          }
          if (!is_last_pass) continue;
          const std::int64_t output = tile * kTileRows;
          const std::int64_t left = p_.num_outputs - output, num_outputs = left < kTileRows ? left : kTileRows;
          for (std::int64_t b = first; b < last; ++b) {
            const Block block = block_at(span.piece->num_rows, b, packing);
            epilogue(*span.piece, block, output, num_outputs, sums_at(tile - span.begin, 0, b - first),
                     sums_at(tile - span.begin, p_.halves - 1, b - first));
          }
        }
      }
    }
    return next_task;
  }

  float* sums_at(std::int64_t tile, int half, std::int64_t block) {
    const std::int64_t slot = p_.num_inputs > pass_ ? tile : 0;
    return sums_ + (((slot * 2 + half) * kSuperblock) + block) * kBlockTokens * kTileRows;
  }

  // The weights of a tile, in place or staged, and where the tile after it lies.
  Tile<Element> prepare(const Span& span, std::int64_t tile, int half, std::int64_t k, std::int64_t size,
                        std::int64_t task_after) {
    const std::int64_t output = tile * kTileRows, left = p_.num_outputs - output;
    const std::int64_t stride = p_.row_step * p_.weights.row_stride;
    const S* const rows = weights_at(*span.piece, output, half, k);
    if (is_staged_ || left < kTileRows) {
      const std::int64_t padded = round_up(size, kChunk);
      copy_rows(rows, stride, left, size, staged_, padded, kTileRows);
      return {staged_, padded, nullptr};
    }
    if constexpr (IsSame<S, Element>::value) {
      return {rows, stride, reinterpret_cast<const char*>(after(span, tile, half, k, task_after))};
    } else {
      return {};
    }
  }

  // The first weight of the tile that comes next; null at the end of the work.
  const S* after(const Span& span, std::int64_t tile, int half, std::int64_t k, std::int64_t task_after) const {
    if (task_after < 0) return nullptr;
    if (half + 1 < p_.halves) return weights_at(*span.piece, tile * kTileRows, half + 1, k);
    if (tile + 1 < span.end) return weights_at(*span.piece, (tile + 1) * kTileRows, 0, k);
    if (k + pass_ < p_.num_inputs) return weights_at(*span.piece, span.begin * kTileRows, 0, k + pass_);
    const Span next = span_of(task_after);
    return weights_at(*next.piece, next.begin * kTileRows, 0, 0);
  }

  const Projection& p_;
  bool is_staged_;
  std::int64_t pass_, padded_inputs_;
  alignas(64) float sums_[kTilesPerTask * 2 * kSuperblock * kBlockTokens * kTileRows];
  alignas(64) Element staged_[kTileRows * kInPlaceBytes / sizeof(Element)];
};

}  // namespace
}  // namespace headgate

#endif
