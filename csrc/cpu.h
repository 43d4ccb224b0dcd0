// What this processor can do, and which variant of a kernel that selects.
#ifndef HEADGATE_CPU_H
#define HEADGATE_CPU_H

#include "headgate.h"

namespace headgate {

// The best instruction set of this build that this processor has: a headgate_isa, never HEADGATE_ISA_BEST.
int best_isa();

// The instruction set to use for a request: `requested` if this processor has it, the best one for
// HEADGATE_ISA_BEST, -1 if it can't run here.
int resolve_isa(int requested);

}  // namespace headgate

#endif
