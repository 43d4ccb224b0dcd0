// The table of one instruction set and storage type. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_KERNELS_H
#define HEADGATE_EXPERTS_KERNELS_H

#include "gradients.h"
#include "phases.h"

namespace headgate {
namespace {

template <class Isa, class S>
constexpr ExpertsKernels kernels_of() {
  using Element = typename Isa::Element;
  return {packing_of<Isa>(),
          run_each<PackJob, pack_block<Isa, S>>,
          run_each<PackJob, pack_block<Isa, Element>>,
          run_up<Isa, S>,
          run_rows<Isa, S>,
          run_each<CombineJob, combine_tokens<S>>,
          run_hidden<Isa, S>,
          run_each<PanelJob, pack_strip<Isa, S>>,
          run_each<PanelJob, pack_strip<Isa, Element>>,
          run_each<WeightsJob, compute_weights<Isa, S>>,
          run_each<RowWeightsJob, compute_row_weights<S>>};
}

}  // namespace
}  // namespace headgate

#endif
