#include "route_tokens.h"

void headgate::route_tokens_avx2(const RouteCall& call, int64_t begin, int64_t end, float* scratch) {
  ::route_tokens(call, begin, end, scratch);
}
