// What the experts' phases share: the geometry of packed inputs, and one table of functions per instruction set and
// storage type.
#ifndef HEADGATE_EXPERTS_JOB_H
#define HEADGATE_EXPERTS_JOB_H

#include <cstdint>

#include "headgate.h"
#include "parallel.h"

namespace headgate {

// Input rows are packed so that one vector register holds the same 16 bytes of several tokens: consecutive rows form
// a block, and a block of n rows is [ceil(K / chunk)][n][chunk] elements, zero beyond the K inputs. Weight rows are
// then read 16 bytes at a time, each repeated over the whole register, and a register of sums holds `chunk` partial
// sums of each token, in an order that depends on nothing but K.
//
// A piece is a run of rows of one expert, few enough that the threads share the work evenly. It is cut into blocks of
// at most `max_vectors` registers.
struct Piece {
  std::int64_t expert;
  std::int64_t row;          // first row, in plan order
  std::int64_t num_rows;
  std::int64_t packed_row;   // first row among all packed rows: pieces are padded to whole registers
  std::int64_t group_row;    // the same, counted from the first piece of its group
  std::int64_t first_block;  // number of its first block in its group
};

// How an instruction set packs.
struct Packing {
  int chunk_bytes;     // 16
  int element_bytes;   // of the type that is multiplied: 2 or 4
  int lane_tokens;     // tokens per register
  int max_vectors;     // registers per block
  std::int64_t chunk() const { return chunk_bytes / element_bytes; }
};

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

// Rows that a piece takes in packed form. A single register's worth is not padded, so that one token costs no more
// memory than itself; loads then run into what follows, and their surplus lanes are ignored.
inline std::int64_t packed_rows(std::int64_t num_rows, const Packing& packing) {
  return num_rows <= packing.lane_tokens ? num_rows : round_up(num_rows, packing.lane_tokens);
}

inline std::int64_t count_blocks(std::int64_t num_rows, const Packing& packing) {
  return divide_up(divide_up(num_rows, packing.lane_tokens), packing.max_vectors);
}

// Block `index` of a piece: its first row within the piece, its rows in packed form, and its registers. Registers are
// spread evenly over the blocks: a block of one register uses the multipliers badly.
struct Block {
  std::int64_t begin, packed_rows, num_rows;
  int vectors;
};

inline Block block_at(std::int64_t num_rows, std::int64_t index, const Packing& packing) {
  const std::int64_t vectors = divide_up(num_rows, packing.lane_tokens);
  const std::int64_t num_blocks = divide_up(vectors, packing.max_vectors);
  const std::int64_t each = vectors / num_blocks, larger = vectors % num_blocks;
  const std::int64_t before = index * each + (index < larger ? index : larger);
  Block block;
  block.vectors = static_cast<int>(each + (index < larger ? 1 : 0));
  block.begin = before * packing.lane_tokens;
  const std::int64_t capacity = static_cast<std::int64_t>(block.vectors) * packing.lane_tokens;
  const std::int64_t left = num_rows - block.begin;
  block.num_rows = left < capacity ? left : capacity;
  block.packed_rows = num_rows <= packing.lane_tokens ? num_rows : capacity;
  return block;
}

// One phase's view of the problem.
struct ExpertsJob {
  const headgate_experts* experts;
  const Piece* pieces;  // of this group; for the second projection, of all
  std::int64_t num_pieces;
  std::int64_t tiles_per_task;  // tiles of 8 outputs
  std::int64_t tasks_per_piece;
  void* packed_x;       // [rows of the group, D]
  void* packed_hidden;  // [all packed rows, F]
  void* up_rows;
  float* outputs;       // [R', width]
  std::int64_t begin, width;  // the outputs' columns, of D
  void* y;
  std::int64_t tokens_per_task;
};

// The phases for one instruction set and storage type.
struct ExpertsKernels {
  Packing packing;
  void (*pack)(const void* job, TaskQueue& tasks);     // task = block of the group
  void (*up)(const void* job, TaskQueue& tasks);       // task = some tiles of hidden units of a piece
  void (*down)(const void* job, TaskQueue& tasks);     // task = some tiles of outputs of a piece
  void (*combine)(const void* job, TaskQueue& tasks);  // task = some tokens
};

// The kernels for an instruction set that this processor has, and a headgate_dtype; null if there is no such dtype.
const ExpertsKernels* find_experts_kernels(int isa, int dtype);

const ExpertsKernels* generic_kernels(int dtype);
#if defined(HEADGATE_X86)
const ExpertsKernels* avx2_kernels(int dtype);
const ExpertsKernels* avx512_kernels(int dtype);
const ExpertsKernels* avx512_bf16_kernels(int dtype);
#endif

}  // namespace headgate

#endif
