// The forward of the experts: plans the work, then runs its phases.
#include <algorithm>
#include <deque>
#include <new>

#include "../cpu.h"
#include "layout.h"

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

Projection up_projection(const headgate_experts& e, const Pieces& pieces, const void* packed) {
  const bool is_interleaved = e.function.is_gated && e.function.is_interleaved;
  Projection p{pieces, e.up, e.d_model, 0, e.d_ff, e.function.is_gated ? 2 : 1, is_interleaved ? 2 : 1,
               is_interleaved ? 1 : e.d_ff, packed, 0, 0};
  set_tasks(p, e.threads.num_threads);
  return p;
}

int run(const headgate_experts& e, const ExpertsKernels& kernels, void* y, void* up_rows) {
  const Packing& packing = kernels.packing;
  const std::int64_t x_row_bytes = packed_row_bytes(e.d_model, packing);
  const Geometry geometry = lay_out(e, packing, std::max(budget_of(e) / x_row_bytes, kMostRowsPerPiece), false);

  // The packed inputs are dead when the first outputs are written, so both use the same memory.
  const std::int64_t x_bytes = geometry.most_group_rows * x_row_bytes;
  const std::int64_t width = slab_width(e, x_bytes);
  const std::int64_t slab_bytes = e.expert_offsets[e.num_experts] * width * std::int64_t{sizeof(float)};
  const Buffer shared = allocate(std::max(x_bytes, slab_bytes));
  const Buffer hidden = allocate(geometry.packed_rows * packed_row_bytes(e.d_ff, packing));
  float* const outputs = static_cast<float*>(shared.get());

  // Phases keep the addresses of their jobs.
  std::deque<PackJob> packs;
  std::deque<UpJob> ups;
  std::deque<RowsJob> downs;
  std::deque<CombineJob> combines;
  std::vector<Phase> phases;
  for (const Group& group : geometry.groups) {
    const Pieces pieces = pieces_of(geometry, group, true);
    packs.push_back({pieces, {e.x, e.x_stride, e.token_of_row, 0}, e.d_model, shared.get()});
    ups.push_back({&e, up_projection(e, pieces, shared.get()), hidden.get(), up_rows});
    phases.push_back({kernels.pack, &packs.back(), group.num_blocks});
    phases.push_back({kernels.up, &ups.back(), count_tasks(ups.back().projection)});
  }
  for (std::int64_t begin = 0; begin < e.d_model; begin += width) {
    const std::int64_t size = std::min(width, e.d_model - begin);
    Projection down{all_pieces(geometry), e.down, e.d_ff, begin, size, 1, 1, 0, hidden.get(), 0, 0};
    set_tasks(down, e.threads.num_threads);
    downs.push_back({down, e.d_model, outputs});
    combines.push_back({&e, outputs, true, e.x, e.x_stride, begin, size, y, tokens_per_task(size)});
    phases.push_back({kernels.rows, &downs.back(), count_tasks(down)});
    phases.push_back({kernels.combine, &combines.back(), divide_up(e.num_tokens, tokens_per_task(size))});
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
    std::vector<float> weights;
    return run(weigh_rows(*experts, weights), *kernels, y, up_rows);
  } catch (const std::bad_alloc&) {
    return HEADGATE_OUT_OF_MEMORY;
  }
}
