// The forward of the experts: plans the work, then runs its phases.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../cpu.h"
#include "job.h"

namespace headgate {

const ExpertsKernels* find_experts_kernels(int isa, int dtype) {
  if (dtype < HEADGATE_FLOAT32 || dtype > HEADGATE_BFLOAT16) return nullptr;
#if defined(HEADGATE_X86)
  if (isa == HEADGATE_ISA_AVX512_BF16) return avx512_bf16_kernels(dtype);
  if (isa == HEADGATE_ISA_AVX512) return avx512_kernels(dtype);
  if (isa == HEADGATE_ISA_AVX2) return avx2_kernels(dtype);
#endif
  return isa == HEADGATE_ISA_GENERIC ? generic_kernels(dtype) : nullptr;
}

namespace {

constexpr std::int64_t kAlignment = 64;
constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kMostRowsPerPiece = 768;
constexpr std::int64_t kSmallBytes = std::int64_t{4} << 20;  // buffers up to this size are not split
constexpr std::int64_t kTileOutputs = 8;

struct FreeAligned {
  void operator()(void* pointer) const { std::free(pointer); }
};
using Buffer = std::unique_ptr<void, FreeAligned>;

// Room for `bytes` and for the loads that run over the end of the last block. Large buffers ask for large pages: the
// system clears and maps these several times as fast.
Buffer allocate(std::int64_t bytes) {
  const std::int64_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  const std::size_t size = static_cast<std::size_t>(round_up(bytes + 4 * kAlignment, alignment));
  Buffer buffer(std::aligned_alloc(static_cast<std::size_t>(alignment), size));
#if defined(MADV_HUGEPAGE)
  if (buffer && alignment == kHugePage) madvise(buffer.get(), size, MADV_HUGEPAGE);
#endif
  return buffer;
}

struct Group {
  std::int64_t first_piece, num_pieces, num_blocks, packed_rows;
};

struct Geometry {
  std::vector<Piece> pieces;
  std::vector<Group> groups;
  std::int64_t packed_rows = 0;
  std::int64_t most_group_rows = 0;
};

// Cuts the rows of all experts into pieces, and these into groups whose packed inputs fit the given number of rows.
Geometry lay_out(const headgate_experts& e, const Packing& packing, std::int64_t rows_per_group) {
  Geometry geometry;
  Group group{0, 0, 0, 0};
  const auto close = [&] {
    if (group.num_pieces > 0) geometry.groups.push_back(group);
    geometry.most_group_rows = std::max(geometry.most_group_rows, group.packed_rows);
    group = {static_cast<std::int64_t>(geometry.pieces.size()), 0, 0, 0};
  };
  for (std::int64_t expert = 0; expert < e.num_experts; ++expert) {
    const std::int64_t end = e.expert_offsets[expert + 1];
    for (std::int64_t row = e.expert_offsets[expert]; row < end; row += kMostRowsPerPiece) {
      const std::int64_t num_rows = std::min(kMostRowsPerPiece, end - row);
      const std::int64_t padded = headgate::packed_rows(num_rows, packing);
      if (group.packed_rows + padded > rows_per_group) close();
      geometry.pieces.push_back({expert, row, num_rows, geometry.packed_rows, group.packed_rows, group.num_blocks});
      geometry.packed_rows += padded;
      group.packed_rows += padded;
      group.num_blocks += count_blocks(num_rows, packing);
      ++group.num_pieces;
    }
  }
  close();
  return geometry;
}

void set_tasks(ExpertsJob& job, std::int64_t num_outputs, std::int64_t num_inputs) {
  job.tiles_per_task = num_inputs <= 2048 ? 8 : 4;
  job.tasks_per_piece = divide_up(divide_up(num_outputs, kTileOutputs), job.tiles_per_task);
}

bool is_valid(const headgate_experts& e) {
  const auto is_strided = [](const headgate_matrices& m) { return m.row_stride == 1 || m.column_stride == 1; };
  return e.num_tokens >= 0 && e.d_model > 0 && e.d_ff > 0 && e.num_experts >= 0 && e.num_rows >= 0 &&
         is_strided(e.up) && is_strided(e.down);
}

int run(const headgate_experts& e, const ExpertsKernels& kernels, void* y, void* up_rows) {
  const Packing& packing = kernels.packing;
  const std::int64_t num_computed = e.expert_offsets[e.num_experts];
  const std::int64_t x_row_bytes = round_up(e.d_model, packing.chunk()) * packing.element_bytes;
  const std::int64_t hidden_row_bytes = round_up(e.d_ff, packing.chunk()) * packing.element_bytes;
  const std::int64_t budget = std::max(kSmallBytes, 4 * (num_computed * e.d_ff + e.num_tokens * e.d_model));
  const Geometry geometry = lay_out(e, packing, std::max(budget / x_row_bytes, kMostRowsPerPiece));

  // The packed inputs are dead when the first outputs are written, so both use the same memory.
  const std::int64_t row_bytes = std::max<std::int64_t>(num_computed, 1) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t shared_bytes = std::max(kSmallBytes, geometry.most_group_rows * x_row_bytes);
  const std::int64_t most_columns = std::max(shared_bytes / row_bytes / 64 * 64, std::int64_t{64});
  const std::int64_t width = std::min(e.d_model, most_columns);
  const Buffer shared = allocate(std::max(geometry.most_group_rows * x_row_bytes, row_bytes * width));
  const Buffer hidden = allocate(geometry.packed_rows * hidden_row_bytes);
  if (!shared || !hidden) return HEADGATE_OUT_OF_MEMORY;

  const std::size_t num_slabs = static_cast<std::size_t>(divide_up(e.d_model, width));
  std::vector<ExpertsJob> jobs;
  std::vector<Phase> phases;
  jobs.reserve(geometry.groups.size() + num_slabs);
  const ExpertsJob base{&e, geometry.pieces.data(), static_cast<std::int64_t>(geometry.pieces.size()), 0, 0,
                        shared.get(), hidden.get(), up_rows, static_cast<float*>(shared.get()), 0, width, y, 0};
  for (const Group& group : geometry.groups) {
    jobs.push_back(base);
    ExpertsJob& job = jobs.back();
    job.pieces = base.pieces + group.first_piece;
    job.num_pieces = group.num_pieces;
    set_tasks(job, e.d_ff, e.d_model);
    phases.push_back({kernels.pack, &job, group.num_blocks});
    phases.push_back({kernels.up, &job, group.num_pieces * job.tasks_per_piece});
  }
  for (std::int64_t begin = 0; begin < e.d_model; begin += width) {
    jobs.push_back(base);
    ExpertsJob& job = jobs.back();
    job.begin = begin;
    job.width = std::min(width, e.d_model - begin);
    job.tokens_per_task = std::max<std::int64_t>(1, (1 << 16) / job.width);
    set_tasks(job, job.width, e.d_ff);
    phases.push_back({kernels.down, &job, base.num_pieces * job.tasks_per_piece});
    phases.push_back({kernels.combine, &job, divide_up(e.num_tokens, job.tokens_per_task)});
  }
  return run_phases(e.threads, phases.data(), static_cast<int>(phases.size()));
}

}  // namespace
}  // namespace headgate

int headgate_experts_forward(const headgate_experts* experts, void* y, void* up_rows) {
  using namespace headgate;
  if (experts == nullptr || !is_valid(*experts)) return HEADGATE_BAD_ARGUMENT;
  const int isa = resolve_isa(experts->isa);
  const ExpertsKernels* const kernels = isa < 0 ? nullptr : find_experts_kernels(isa, experts->dtype);
  if (kernels == nullptr) return HEADGATE_BAD_ARGUMENT;
  try {
    return run(*experts, *kernels, y, up_rows);
  } catch (const std::bad_alloc&) {
    return HEADGATE_OUT_OF_MEMORY;
  }
}
