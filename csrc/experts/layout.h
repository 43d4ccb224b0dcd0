// How a call is laid out: its rows cut into pieces and groups, its working memory, and what each phase works on.
#ifndef HEADGATE_EXPERTS_LAYOUT_H
#define HEADGATE_EXPERTS_LAYOUT_H

#include <cstdlib>
#include <memory>
#include <vector>

#include "job.h"

namespace headgate {

struct FreeAligned {
  void operator()(void* pointer) const { std::free(pointer); }
};
using Buffer = std::unique_ptr<void, FreeAligned>;

// Room for `bytes` and for the loads that run over the end of the last block; throws std::bad_alloc.
Buffer allocate(std::int64_t bytes);

struct Group {
  std::int64_t first_piece, num_pieces, num_blocks, packed_rows;
  std::int64_t first_expert, end_expert;
};

struct Geometry {
  std::vector<Piece> pieces;
  std::vector<Group> groups;
  std::int64_t packed_rows = 0;
  std::int64_t most_group_rows = 0;
};

// Cuts the rows of all experts into pieces, and these into groups of at most the given number of packed rows. A group
// has at least one piece, or one expert where experts must be whole; then groups also name the experts without rows.
Geometry lay_out(const headgate_experts& experts, const Packing& packing, std::int64_t rows_per_group,
                 bool whole_experts);

Pieces pieces_of(const Geometry& geometry, const Group& group, bool counts_groups);
Pieces all_pieces(const Geometry& geometry);

// Divides a projection's outputs among tasks.
void set_tasks(Projection& projection);

// The same for so many threads: a task reads its piece's rows once, so where these are many it takes more outputs, as
// long as there are tasks enough to share evenly.
void set_tasks(Projection& projection, int num_threads);
std::int64_t count_tasks(const Projection& projection);

// The matrices that multiply the other way.
headgate_matrices transpose(const headgate_matrices& matrices);

bool is_valid(const headgate_experts& experts);

// The same experts with weights by row; `weights` is their memory where they came by slot.
headgate_experts weigh_rows(const headgate_experts& experts, std::vector<float>& weights);

// U: gate and up together.
std::int64_t up_width(const headgate_experts& experts);

// Bytes of a row in packed form.
std::int64_t packed_row_bytes(std::int64_t num_inputs, const Packing& packing);

// Buffers together should not need more than a few times this.
std::int64_t budget_of(const headgate_experts& experts);

// How many columns of [R', D] float32 sums fit the given bytes: all, or a multiple of 64.
std::int64_t slab_width(const headgate_experts& experts, std::int64_t bytes);

// Tokens of a CombineJob's task.
std::int64_t tokens_per_task(std::int64_t width);

}  // namespace headgate

#endif
