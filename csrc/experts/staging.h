// Weight tiles that the multipliers can't read in place (another type, or inputs that don't fill the last
// 16 bytes) are copied, a few kilobytes at a time, into the form that they can. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_STAGING_H
#define HEADGATE_EXPERTS_STAGING_H

#include "elements.h"
#include "product.h"

namespace headgate {
namespace {

// to[r * to_stride + k] = from[r * row_stride + k], 0 beyond the given rows and inputs.
template <class To, class S>
void copy_rows(const S* from, std::int64_t row_stride, std::int64_t num_rows, std::int64_t num_inputs, To* to,
               std::int64_t to_stride, std::int64_t all_rows) {
  for (std::int64_t r = 0; r < all_rows; ++r) {
    const S* const source = from + r * row_stride;
    To* const target = to + r * to_stride;
    const std::int64_t size = r < num_rows ? num_inputs : 0;
    for (std::int64_t k = 0; k < size; ++k) target[k] = convert<To>(source[k]);
    for (std::int64_t k = size; k < to_stride; ++k) target[k] = To{};
  }
}

}  // namespace
}  // namespace headgate

#endif
