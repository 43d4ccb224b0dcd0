#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "headgate.h"

namespace {

// The bucket of a slot, where everything out of range shares the bucket after the last. The unsigned
// comparison sends negative ids there as well.
inline std::uint64_t bucket_of(std::int64_t id, std::uint64_t num_buckets) {
  return std::min(static_cast<std::uint64_t>(id), num_buckets);
}

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};

}  // namespace

int headgate_abi_version(void) { return HEADGATE_ABI_VERSION; }

int headgate_sort_slots(const int64_t* bucket_ids, int64_t num_slots, int64_t num_buckets, int64_t* order,
                        int64_t* offsets) {
  if (num_slots < 0 || num_buckets < 0) return HEADGATE_BAD_ARGUMENT;
  const auto buckets = static_cast<std::uint64_t>(num_buckets);

  // next[b] is first the count of bucket b, then the place in `order` of its next slot.
  // calloc, because it answers an impossible size with null where new[] may throw.
  const std::unique_ptr<std::int64_t[], Free> next(
      static_cast<std::int64_t*>(std::calloc(buckets + 1, sizeof(std::int64_t))));
  if (!next) return HEADGATE_OUT_OF_MEMORY;
  for (std::int64_t slot = 0; slot < num_slots; ++slot) ++next[bucket_of(bucket_ids[slot], buckets)];

  std::int64_t start = 0;
  for (std::uint64_t bucket = 0; bucket <= buckets; ++bucket) {
    const std::int64_t count = next[bucket];
    offsets[bucket] = next[bucket] = start;
    start += count;
  }
  for (std::int64_t slot = 0; slot < num_slots; ++slot) {
    order[next[bucket_of(bucket_ids[slot], buckets)]++] = slot;
  }
  return HEADGATE_OK;
}
