// Weight tiles times blocks of packed rows: where the time goes. Internal linkage, see elements.h.
//
// An instruction set is a class `Isa` with
//   Element                                what is multiplied: Bf16 or float
//   Vector, Sum                            registers of elements and of float32 sums
//   kLaneTokens, kMaxVectors, kRows        tokens per register, registers per block, weight rows at a time
//   kColumnVectors, kColumnRows            registers of columns, and tokens, at a time (columns.h)
//   load(p), broadcast(p)                  a register from memory; 16 bytes repeated over a register
//   zero(), multiply_add(x, w, sum)        sum + x * w (pairs of products where elements are 16 bits wide)
//   broadcast_pair(p)                      4 bytes repeated over a register
//   store(sum, to, add)                    to[lane] (+)= sum[lane]
//   store_sums(a, b, c, d, to, add)        each token's sums of four rows, to[token * kTileRows + row] (+)= ...
#ifndef HEADGATE_EXPERTS_PRODUCT_H
#define HEADGATE_EXPERTS_PRODUCT_H

#include "elements.h"
#include "job.h"

namespace headgate {
namespace {

constexpr int kTileRows = 8;
constexpr int kChunksPerLine = 4;  // 16-byte chunks in a cache line
constexpr std::int64_t kSuperblock = 8;  // blocks that share a pass, so that their rows stay in the second cache

template <class Isa>
constexpr std::int64_t chunk_of() {
  return 16 / static_cast<std::int64_t>(sizeof(typename Isa::Element));
}

template <class Isa>
constexpr Packing packing_of() {
  return {16, static_cast<int>(sizeof(typename Isa::Element)), Isa::kLaneTokens, Isa::kMaxVectors};
}

inline void prefetch(const char* address) {
#if defined(__GNUC__)
  // To the second level: the next tile is too large for the first.
  __builtin_prefetch(address, 0, 2);
#else
  (void)address;
#endif
}

template <class Isa, int V>
inline void step(const typename Isa::Element* w, std::int64_t w_stride, const typename Isa::Element* x,
                 typename Isa::Sum (&sums)[Isa::kRows][V]) {
  typename Isa::Vector tokens[V];
  for (int v = 0; v < V; ++v) tokens[v] = Isa::load(x + v * Isa::kLaneTokens * chunk_of<Isa>());
  for (int r = 0; r < Isa::kRows; ++r) {
    const typename Isa::Vector row = Isa::broadcast(w + r * w_stride);
    for (int v = 0; v < V; ++v) sums[r][v] = Isa::multiply_add(tokens[v], row, sums[r][v]);
  }
}

// sums[token * kTileRows + r] (+)= sum over k of w[r * w_stride + k] * x[token, k], for kRows weight rows and V
// registers of tokens. With kPrefetch, the same bytes of the rows at `ahead` are fetched meanwhile.
template <class Isa, int V, bool kPrefetch>
void multiply_rows(const typename Isa::Element* w, std::int64_t w_stride, const typename Isa::Element* x,
                   std::int64_t x_stride, std::int64_t num_chunks, float* to, bool add, const char* ahead) {
  constexpr std::int64_t kChunk = chunk_of<Isa>();
  typename Isa::Sum sums[Isa::kRows][V];
  for (int r = 0; r < Isa::kRows; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = Isa::zero();
  }
  std::int64_t chunk = 0;
  for (; chunk + kChunksPerLine <= num_chunks; chunk += kChunksPerLine) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 4
#endif
    for (int i = 0; i < kChunksPerLine; ++i) {
      step<Isa, V>(w, w_stride, x, sums);
      w += kChunk;
      x += x_stride;
      if (kPrefetch) {
        constexpr int kEach = Isa::kRows / kChunksPerLine;
        for (int r = i * kEach; r < (i + 1) * kEach; ++r) {
          prefetch(ahead + r * w_stride * static_cast<std::int64_t>(sizeof(typename Isa::Element)));
        }
      }
    }
    if (kPrefetch) ahead += 64;
  }
  for (; chunk < num_chunks; ++chunk, w += kChunk, x += x_stride) step<Isa, V>(w, w_stride, x, sums);
  for (int v = 0; v < V; ++v) {
    float* const tokens = to + v * Isa::kLaneTokens * kTileRows;
    for (int r = 0; r < Isa::kRows; r += 4) {
      Isa::store_sums(sums[r][v], sums[r + 1][v], sums[r + 2][v], sums[r + 3][v], tokens + r, add);
    }
  }
}

template <class Element>
struct Tile {
  const Element* rows;
  std::int64_t stride;  // elements between rows
  const char* ahead;    // the tile to fetch meanwhile, with the same stride; null = none
};

// One tile times one block.
template <class Isa>
inline void multiply(const Tile<typename Isa::Element>& tile, const typename Isa::Element* x, const Block& block,
                     std::int64_t num_chunks, float* sums, bool add) {
  using Element = typename Isa::Element;
  const std::int64_t x_stride = block.packed_rows * chunk_of<Isa>();
  for (int row = 0; row < kTileRows; row += Isa::kRows) {
    const Element* const w = tile.rows + row * tile.stride;
    float* const to = sums + row;
    if (tile.ahead != nullptr) {
      const char* const ahead = tile.ahead + row * tile.stride * static_cast<std::int64_t>(sizeof(Element));
      switch (block.vectors) {
        case 1:
          multiply_rows<Isa, 1, true>(w, tile.stride, x, x_stride, num_chunks, to, add, ahead);
          break;
        case 2:
          multiply_rows<Isa, 2, true>(w, tile.stride, x, x_stride, num_chunks, to, add, ahead);
          break;
        default:
          multiply_rows<Isa, 3, true>(w, tile.stride, x, x_stride, num_chunks, to, add, ahead);
      }
    } else {
      switch (block.vectors) {
        case 1:
          multiply_rows<Isa, 1, false>(w, tile.stride, x, x_stride, num_chunks, to, add, nullptr);
          break;
        case 2:
          multiply_rows<Isa, 2, false>(w, tile.stride, x, x_stride, num_chunks, to, add, nullptr);
          break;
        default:
          multiply_rows<Isa, 3, false>(w, tile.stride, x, x_stride, num_chunks, to, add, nullptr);
      }
    }
  }
}

}  // namespace
}  // namespace headgate

#endif
