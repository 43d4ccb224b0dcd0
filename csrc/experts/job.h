// What the experts' phases share: the geometry of packed rows, what each phase works on, and one table of functions
// per instruction set and storage type.
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

constexpr std::int64_t kMostRowsPerPiece = 768;
constexpr std::int64_t kTileOutputs = 8;
constexpr std::int64_t kTilesPerTask = 16;    // at most
constexpr std::int64_t kColumnsPerTask = 384;  // of transposed weights

// How an instruction set packs. For the gradients of weights, which are sums over rows, a pair is what one 32-bit
// lane multiplies: 2 rows of 16 bits or 1 of 32, and a panel is as many columns as a tile of sums is wide. The rows of
// an expert are [panels][ceil(rows / pair)][columns of the panel][pair], the last panel as narrow as whole registers
// allow.
struct Packing {
  int chunk_bytes;     // 16
  int element_bytes;   // of the type that is multiplied: 2 or 4
  int lane_tokens;     // tokens per register
  int max_vectors;     // registers per block, and per panel
  std::int64_t chunk() const { return chunk_bytes / element_bytes; }
  std::int64_t pair() const { return 4 / element_bytes; }
  std::int64_t lanes() const { return lane_tokens * chunk_bytes / 4; }
  std::int64_t panel() const { return lanes() * max_vectors; }
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

// Rows in memory: row r of the plan is at data[index[r] * stride], or data[(r - first_row) * stride] without an index.
struct RowSource {
  const void* data;
  std::int64_t stride;
  const std::int64_t* index;
  std::int64_t first_row;
};

struct Pieces {
  const Piece* data;
  std::int64_t size;
  bool counts_groups;  // whether packed rows are numbered from the group's first, or from the first of all
};

// Copies rows into packed form. Task = block of the group.
struct PackJob {
  Pieces pieces;
  RowSource source;
  std::int64_t num_inputs;
  void* packed;
};

// One or two matrices of weights (gate and up) times packed rows. Output o of half h is weight row
// o * row_step + h * half_offset. Task = some tiles of 8 outputs of a piece.
struct Projection {
  Pieces pieces;
  headgate_matrices weights;
  std::int64_t num_inputs;
  std::int64_t first_output, num_outputs;
  int halves;
  std::int64_t row_step, half_offset;
  const void* packed;
  std::int64_t tiles_per_task, tasks_per_piece;
};

// Gate and up, then the nonlinearity. Its pieces are numbered within the group in `packed`, and over all in `hidden`.
struct UpJob {
  const headgate_experts* experts;
  Projection projection;
  void* hidden;   // packed [all packed rows, F]
  void* up_rows;  // [R', U], or null
};

// A projection whose results are kept as rows: the second one, and the gradient of the first.
struct RowsJob {
  Projection projection;
  std::int64_t bias_stride;  // between experts
  float* outputs;            // [R', num_outputs]
};

// Adds up each token's rows. Task = some tokens.
struct CombineJob {
  const headgate_experts* experts;
  const float* outputs;      // [R', width]
  bool is_weighted;          // rows of zero-compute experts always are
  const void* identity;      // [T, D], what rows of zero-compute experts return
  std::int64_t identity_stride;
  std::int64_t begin, width; // columns, of D
  void* y;                   // [T, D]
  std::int64_t tokens_per_task;
};

// Turns the gradient of the hidden units (`projection`, from packed rows of dy) into that of gate and up.
struct HiddenJob {
  const headgate_experts* experts;
  Projection projection;
  const void* up_rows;      // [R', U]
  std::int64_t first_row;   // of the group
  void* up_gradients;       // [rows of the group, U], row weights included
  void* hidden;             // [rows of the group, F], times the row's weight
  float* weight_parts;      // [R', tasks_per_piece], sums over the task's hidden units of hidden * its gradient
};

// Where an expert's rows lie.
struct ExpertRows {
  std::int64_t row, num_rows;
  std::int64_t panel_row;  // its first row among the group's, each expert padded to whole pairs
};

constexpr std::int64_t kStripRows = 32;
constexpr std::int64_t kStripsPerPiece = kMostRowsPerPiece / kStripRows;

// Copies rows into panels. Task = a strip of a piece.
struct PanelJob {
  Pieces pieces;
  const ExpertRows* experts;
  RowSource source;
  std::int64_t num_columns;
  void* panels;
};

// Gradients of weights and biases. Task = some rows of one expert's matrix.
struct WeightsJob {
  const headgate_experts* experts;
  const headgate_gradients* gradients;
  const ExpertRows* rows;
  std::int64_t first_expert, num_experts;
  const void *x, *dy, *hidden, *up_gradients;  // panels
  RowSource up_gradient_rows;
};

// Gradients of the row weights. Task = some rows.
struct RowWeightsJob {
  const headgate_experts* experts;
  const headgate_gradients* gradients;
  const float* parts;
  std::int64_t num_parts;
};

constexpr std::int64_t kRowsPerTask = 64;           // of RowWeightsJob
constexpr std::int64_t kWeightRowsPerTask = 64;     // of WeightsJob

// The phases for one instruction set and storage type S; the elements that are multiplied may be of another type.
struct ExpertsKernels {
  using Run = void (*)(const void* job, TaskQueue& tasks);
  Packing packing;
  Run pack;             // PackJob, rows of S
  Run pack_elements;    // PackJob, rows of elements
  Run up;               // UpJob
  Run rows;             // RowsJob
  Run combine;          // CombineJob
  Run hidden;           // HiddenJob
  Run panels;           // PanelJob, rows of S
  Run panels_elements;  // PanelJob, rows of elements
  Run weights;          // WeightsJob
  Run row_weights;      // RowWeightsJob
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
