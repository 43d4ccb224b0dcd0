// Gradients of weights: sums over an expert's rows of products of two columns. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_PANELS_H
#define HEADGATE_EXPERTS_PANELS_H

#include <cstddef>

#include "pack.h"

namespace headgate {
namespace {

constexpr std::int64_t kPairsPerPass = 256;  // of rows: a panel's share of them stays in the second cache

// to[r * to_stride + lane] (+)= sum over pairs of a[pair, r] * b[pair, lane], for kRows columns of a and V registers
// of columns of b.
template <class Isa, int V>
void multiply_columns(const typename Isa::Element* a, std::int64_t a_stride, const typename Isa::Element* b,
                      std::int64_t num_pairs, float* to, std::int64_t to_stride, bool add) {
  constexpr std::int64_t kPair = Panels<Isa>::kPair, kLanes = Panels<Isa>::kLanes;
  typename Isa::Sum sums[Isa::kRows][V];
  for (int r = 0; r < Isa::kRows; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = Isa::zero();
  }
  for (std::int64_t pair = 0; pair < num_pairs; ++pair, a += a_stride, b += V * kLanes * kPair) {
    typename Isa::Vector columns[V];
    for (int v = 0; v < V; ++v) columns[v] = Isa::load(b + v * kLanes * kPair);
    for (int r = 0; r < Isa::kRows; ++r) {
      const typename Isa::Vector row = Isa::broadcast_pair(a + r * kPair);
      for (int v = 0; v < V; ++v) sums[r][v] = Isa::multiply_add(columns[v], row, sums[r][v]);
    }
  }
  for (int r = 0; r < Isa::kRows; ++r) {
    for (int v = 0; v < V; ++v) Isa::store(sums[r][v], to + r * to_stride + v * kLanes, add);
  }
}

// One panel of b times the columns [first, first + size) of a: sums[column - first][lane], kWidth apart.
template <class Isa>
void multiply_panel(const Panels<Isa>& a, std::int64_t first, std::int64_t size, const Panels<Isa>& b,
                    std::int64_t panel, float* sums) {
  constexpr std::int64_t kPair = Panels<Isa>::kPair, kWidth = Panels<Isa>::kWidth;
  const std::int64_t vectors = b.width(panel) / Panels<Isa>::kLanes;
  for (std::int64_t pair = 0; pair < a.num_pairs; pair += kPairsPerPass) {
    const std::int64_t left = a.num_pairs - pair, num_pairs = left < kPairsPerPass ? left : kPairsPerPass;
    for (std::int64_t row = 0; row < size; row += Isa::kRows) {
      const std::int64_t a_panel = (first + row) / kWidth, column = (first + row) % kWidth;
      const typename Isa::Element* const from = a.at(a_panel, pair) + column * kPair;
      const std::int64_t stride = a.width(a_panel) * kPair;
      float* const to = sums + row * kWidth;
      switch (vectors) {
        case 1:
          multiply_columns<Isa, 1>(from, stride, b.at(panel, pair), num_pairs, to, kWidth, pair > 0);
          break;
        case 2:
          multiply_columns<Isa, 2>(from, stride, b.at(panel, pair), num_pairs, to, kWidth, pair > 0);
          break;
        default:
          multiply_columns<Isa, Isa::kMaxVectors>(from, stride, b.at(panel, pair), num_pairs, to, kWidth, pair > 0);
      }
    }
  }
}

// out[row][column] for rows [first, first + size) of one expert's gradient, [columns of a, columns of b].
template <class Isa, class S>
void write_gradient(const Panels<Isa>& a, std::int64_t first, std::int64_t size, const Panels<Isa>& b,
                    std::int64_t num_columns, S* out) {
  constexpr std::int64_t kWidth = Panels<Isa>::kWidth;
  alignas(64) float sums[kWeightRowsPerTask * kWidth];
  if (a.num_pairs == 0) {  // An expert without rows.
    const std::size_t bytes = static_cast<std::size_t>(size * num_columns) * sizeof(S);
    std::memset(static_cast<void*>(out + first * num_columns), 0, bytes);
    return;
  }
  for (std::int64_t panel = 0, column = 0; column < num_columns; ++panel, column += kWidth) {
    multiply_panel(a, first, size, b, panel, sums);
    const std::int64_t left = num_columns - column, width = left < kWidth ? left : kWidth;
    for (std::int64_t row = 0; row < size; ++row) {
      S* const to = out + (first + row) * num_columns + column;
      const float* const from = sums + row * kWidth;
      if (width == kWidth) {
        for (std::int64_t c = 0; c < kWidth; ++c) narrow(from[c], &to[c]);
      } else {
        for (std::int64_t c = 0; c < width; ++c) narrow(from[c], &to[c]);
      }
    }
  }
}

}  // namespace
}  // namespace headgate

#endif
