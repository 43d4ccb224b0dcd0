// What the router's variants for the instruction sets share with the code that calls them.
#ifndef HEADGATE_ROUTE_H
#define HEADGATE_ROUTE_H

#include <stdint.h>

#include "headgate.h"

namespace headgate {

// The widest vector of any variant, in floats: rows of scratch are padded to it.
constexpr int64_t kMaxLanes = 16;

// Not inline: a variant's copy must never stand in for another's.
static int64_t pad_to_lanes(int64_t count) { return (count + kMaxLanes - 1) / kMaxLanes * kMaxLanes; }

struct RouteCall {
  const headgate_router* router;
  const headgate_router_input* input;
  const headgate_routing* routing;
};

// Computes logits, scores, expert_ids and combine_weights of the tokens [begin, end).
//
//   scratch  on a 64-byte boundary: end - begin tokens of padded D floats and as many of padded E, then rows for one
//            token's bias, scores, ranking, groups and group members (padded E each) and weights (padded K)
using RouteTokens = void (*)(const RouteCall& call, int64_t begin, int64_t end, float* scratch);

void route_tokens_generic(const RouteCall& call, int64_t begin, int64_t end, float* scratch);
void route_tokens_avx2(const RouteCall& call, int64_t begin, int64_t end, float* scratch);
void route_tokens_avx512(const RouteCall& call, int64_t begin, int64_t end, float* scratch);

}  // namespace headgate

#endif
