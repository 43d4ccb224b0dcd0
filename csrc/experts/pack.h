// Rows into the forms that the multipliers read. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_PACK_H
#define HEADGATE_EXPERTS_PACK_H

#include "product.h"

namespace headgate {
namespace {

template <class S>
inline const S* row_at(const RowSource& source, std::int64_t row) {
  const std::int64_t place = source.index == nullptr ? row - source.first_row : source.index[row];
  return static_cast<const S*>(source.data) + place * source.stride;
}

// The piece that holds a block of the group.
inline const Piece& piece_of_block(const Pieces& pieces, std::int64_t block) {
  std::int64_t low = 0, high = pieces.size;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (pieces.data[middle].first_block <= block ? low : high) = middle;
  }
  return pieces.data[low];
}

// Packs one block of rows: [chunks][rows][chunk].
template <class Isa, class S>
void pack_block(const PackJob& job, std::int64_t task) {
  using Element = typename Isa::Element;
  constexpr std::int64_t kChunk = chunk_of<Isa>();
  const Piece& piece = piece_of_block(job.pieces, task);
  const Block block = block_at(piece.num_rows, task - piece.first_block, packing_of<Isa>());
  const std::int64_t padded = round_up(job.num_inputs, kChunk);
  const std::int64_t first = job.pieces.counts_groups ? piece.group_row : piece.packed_row;
  Element* to = static_cast<Element*>(job.packed) + (first + block.begin) * padded;
  const S* rows[Isa::kLaneTokens * Isa::kMaxVectors];
  for (std::int64_t i = 0; i < block.num_rows; ++i) rows[i] = row_at<S>(job.source, piece.row + block.begin + i);
  for (std::int64_t k = 0; k < job.num_inputs; k += kChunk, to += block.packed_rows * kChunk) {
    const std::int64_t size = k + kChunk <= job.num_inputs ? kChunk : job.num_inputs - k;
    for (std::int64_t i = 0; i < block.num_rows; ++i) {
      Element* const chunk = to + i * kChunk;
      if (size == kChunk) {
        for (std::int64_t j = 0; j < kChunk; ++j) chunk[j] = convert<Element>(rows[i][k + j]);
      } else {
        for (std::int64_t j = 0; j < kChunk; ++j) chunk[j] = j < size ? convert<Element>(rows[i][k + j]) : Element{};
      }
    }
    for (std::int64_t i = block.num_rows * kChunk; i < block.packed_rows * kChunk; ++i) to[i] = Element{};
  }
}

// An expert's rows as panels; see Packing.
template <class Isa>
struct Panels {
  using Element = typename Isa::Element;
  static constexpr std::int64_t kPair = 4 / static_cast<std::int64_t>(sizeof(Element));
  static constexpr std::int64_t kLanes = Isa::kLaneTokens * 4;
  static constexpr std::int64_t kWidth = kLanes * Isa::kMaxVectors;

  std::int64_t num_columns;  // whole registers
  std::int64_t num_pairs;
  Element* data;

  Panels(const void* group, const ExpertRows& rows, std::int64_t columns)
      : num_columns(round_up(columns, kLanes)),
        num_pairs(divide_up(rows.num_rows, kPair)),
        data(static_cast<Element*>(const_cast<void*>(group)) + rows.panel_row * num_columns) {}

  std::int64_t width(std::int64_t panel) const {
    const std::int64_t left = num_columns - panel * kWidth;
    return left < kWidth ? left : kWidth;
  }
  Element* at(std::int64_t panel, std::int64_t pair) const {
    return data + (panel * kWidth * num_pairs + pair * width(panel)) * kPair;
  }
};

// to[c * pair + i] = rows[i][c], zero beyond the columns and where a pair lacks its second row.
template <class Isa, class S>
inline void interleave(const S* const* rows, std::int64_t num_columns, std::int64_t width,
                       typename Isa::Element* __restrict to) {
  using Element = typename Isa::Element;
  constexpr std::int64_t kPair = Panels<Isa>::kPair;
  const S* const first = rows[0];
  const S* const second = rows[kPair - 1];
  if (kPair == 1) {
    for (std::int64_t c = 0; c < num_columns; ++c) to[c] = convert<Element>(first[c]);
  } else if (second != nullptr) {
    for (std::int64_t c = 0; c < num_columns; ++c) {
      to[2 * c] = convert<Element>(first[c]);
      to[2 * c + 1] = convert<Element>(second[c]);
    }
  } else {
    for (std::int64_t c = 0; c < num_columns; ++c) {
      to[2 * c] = convert<Element>(first[c]);
      to[2 * c + 1] = Element{};
    }
  }
  for (std::int64_t i = num_columns * kPair; i < width * kPair; ++i) to[i] = Element{};
}

template <class Isa, class S>
void pack_strip(const PanelJob& job, std::int64_t task) {
  using P = Panels<Isa>;
  const Piece& piece = job.pieces.data[task / kStripsPerPiece];
  const ExpertRows& expert = job.experts[piece.expert];
  const P panels(job.panels, expert, job.num_columns);
  const std::int64_t begin = task % kStripsPerPiece * kStripRows, end = begin + kStripRows;
  for (std::int64_t i = begin; i < end && i < piece.num_rows; i += P::kPair) {
    const S* rows[P::kPair];
    for (std::int64_t j = 0; j < P::kPair; ++j) {
      rows[j] = i + j < piece.num_rows ? row_at<S>(job.source, piece.row + i + j) : nullptr;
    }
    const std::int64_t pair = (piece.row - expert.row + i) / P::kPair;
    for (std::int64_t panel = 0, column = 0; column < job.num_columns; ++panel, column += P::kWidth) {
      const std::int64_t width = panels.width(panel), left = job.num_columns - column;
      if (left >= P::kWidth) {  // a constant, for the compiler
        interleave<Isa>(rows, P::kWidth, P::kWidth, panels.at(panel, pair));
      } else {
        interleave<Isa>(rows, left < width ? left : width, width, panels.at(panel, pair));
      }
      for (std::int64_t j = 0; j < P::kPair; ++j) rows[j] = rows[j] == nullptr ? nullptr : rows[j] + P::kWidth;
    }
  }
}

}  // namespace
}  // namespace headgate

#endif
