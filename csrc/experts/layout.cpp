#include "layout.h"

#include <algorithm>
#include <cstddef>
#include <new>

namespace headgate {
namespace {

constexpr std::int64_t kAlignment = 64;
constexpr std::int64_t kSmallBytes = std::int64_t{4} << 20;   // buffers up to this size are not split
constexpr std::int64_t kManyRows = 384;                       // of a piece: more than the second cache holds
constexpr std::int64_t kTasksPerThread = 16;                  // at least, so that none waits long for the last
constexpr std::int64_t kLargeBytes = std::int64_t{16} << 20;  // memory beyond this costs more to clear than to reuse

std::int64_t mean_rows(const Pieces& pieces) {
  std::int64_t num_rows = 0;
  for (std::int64_t i = 0; i < pieces.size; ++i) num_rows += pieces.data[i].num_rows;
  return pieces.size > 0 ? num_rows / pieces.size : 0;
}

void divide(Projection& projection, std::int64_t tiles_per_task) {
  projection.tiles_per_task = tiles_per_task;
  projection.tasks_per_piece = divide_up(divide_up(projection.num_outputs, kTileOutputs), tiles_per_task);
}

}  // namespace

// Ordinary pages: where a virtual machine hands memory that is long unused back to its host, large ones come back slowly
// (measured: 730 ms for 805 MB, against 220 ms in ordinary pages).
Buffer allocate(std::int64_t bytes) {
  const std::size_t size = static_cast<std::size_t>(round_up(bytes + 4 * kAlignment, kAlignment));
  Buffer buffer(std::aligned_alloc(static_cast<std::size_t>(kAlignment), size));
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

Geometry lay_out(const headgate_experts& e, const Packing& packing, std::int64_t rows_per_group, bool whole_experts) {
  Geometry geometry;
  Group group{0, 0, 0, 0, 0, 0};
  const auto close = [&](std::int64_t next_expert) {
    group.end_expert = next_expert;
    if (group.num_pieces > 0 || whole_experts) geometry.groups.push_back(group);
    geometry.most_group_rows = std::max(geometry.most_group_rows, group.packed_rows);
    group = {static_cast<std::int64_t>(geometry.pieces.size()), 0, 0, 0, next_expert, 0};
  };
  for (std::int64_t expert = 0; expert < e.num_experts; ++expert) {
    const std::int64_t begin = e.expert_offsets[expert], end = e.expert_offsets[expert + 1];
    const std::int64_t most = group.packed_rows + end - begin + packing.lane_tokens;
    if (whole_experts && group.num_pieces > 0 && most > rows_per_group) close(expert);
    for (std::int64_t row = begin; row < end; row += kMostRowsPerPiece) {
      const std::int64_t num_rows = std::min(kMostRowsPerPiece, end - row);
      const std::int64_t padded = headgate::packed_rows(num_rows, packing);
      if (!whole_experts && group.packed_rows + padded > rows_per_group) close(expert);
      geometry.pieces.push_back({expert, row, num_rows, geometry.packed_rows, group.packed_rows, group.num_blocks});
      geometry.packed_rows += padded;
      group.packed_rows += padded;
      group.num_blocks += count_blocks(num_rows, packing);
      ++group.num_pieces;
    }
  }
  close(e.num_experts);
  return geometry;
}

Pieces pieces_of(const Geometry& geometry, const Group& group, bool counts_groups) {
  return {geometry.pieces.data() + group.first_piece, group.num_pieces, counts_groups};
}

Pieces all_pieces(const Geometry& geometry) {
  return {geometry.pieces.data(), static_cast<std::int64_t>(geometry.pieces.size()), false};
}

void set_tasks(Projection& projection) {
  if (projection.weights.column_stride != 1) {
    divide(projection, kColumnsPerTask / (projection.halves * kTileOutputs));
  } else {
    divide(projection, projection.num_inputs <= 2048 ? 8 : 4);
  }
}

void set_tasks(Projection& projection, int num_threads) {
  set_tasks(projection);
  if (projection.weights.column_stride != 1 || mean_rows(projection.pieces) < kManyRows) return;
  Projection coarser = projection;
  divide(coarser, kTilesPerTask);
  if (count_tasks(coarser) >= kTasksPerThread * num_threads) projection = coarser;
}

std::int64_t count_tasks(const Projection& projection) { return projection.pieces.size * projection.tasks_per_piece; }

headgate_matrices transpose(const headgate_matrices& m) {
  return {m.data, m.expert_stride, m.column_stride, m.row_stride, nullptr};
}

bool is_valid(const headgate_experts& e) {
  const auto is_strided = [](const headgate_matrices& m) { return m.row_stride == 1 || m.column_stride == 1; };
  return e.num_tokens >= 0 && e.d_model > 0 && e.d_ff > 0 && e.num_experts >= 0 && e.num_rows >= 0 &&
         is_strided(e.up) && is_strided(e.down);
}

headgate_experts weigh_rows(const headgate_experts& e, std::vector<float>& weights) {
  headgate_experts weighed = e;
  if (e.slot_of_row == nullptr) return weighed;
  weights.resize(static_cast<std::size_t>(e.num_rows));
  for (std::size_t row = 0; row < weights.size(); ++row) weights[row] = e.row_weights[e.slot_of_row[row]];
  weighed.row_weights = weights.data();
  weighed.slot_of_row = nullptr;
  return weighed;
}

std::int64_t up_width(const headgate_experts& e) { return (e.function.is_gated ? 2 : 1) * e.d_ff; }

std::int64_t packed_row_bytes(std::int64_t num_inputs, const Packing& packing) {
  return round_up(num_inputs, packing.chunk()) * packing.element_bytes;
}

std::int64_t budget_of(const headgate_experts& e) {
  const std::int64_t num_values = e.expert_offsets[e.num_experts] * e.d_ff + e.num_tokens * e.d_model;
  return std::min(kLargeBytes, std::max(kSmallBytes, 4 * num_values));
}

std::int64_t slab_width(const headgate_experts& e, std::int64_t bytes) {
  const std::int64_t num_computed = std::max<std::int64_t>(e.expert_offsets[e.num_experts], 1);
  const std::int64_t columns = std::max(bytes, kSmallBytes) / (num_computed * std::int64_t{sizeof(float)}) / 64 * 64;
  return std::min(e.d_model, std::max<std::int64_t>(columns, 64));
}

std::int64_t tokens_per_task(std::int64_t width) { return std::max<std::int64_t>(1, (1 << 16) / width); }

}  // namespace headgate
