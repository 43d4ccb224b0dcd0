#include <vector>

#include "checks.h"
#include "exact_memory.h"
#include "headgate.h"

namespace fuzz {
namespace {

ExactArray<std::int64_t> draw_ids(Random& random, std::int64_t num_slots, std::int64_t num_buckets) {
  const std::int64_t odd[] = {-1, INT64_MIN, INT64_MAX, num_buckets, num_buckets + 1};
  ExactArray<std::int64_t> ids(num_slots);
  const bool has_odd = random.one_in(2);
  for (std::int64_t i = 0; i < num_slots; ++i) {
    ids[i] = num_buckets == 0 || (has_odd && random.one_in(4)) ? random.pick(odd) : random.below(num_buckets);
  }
  return ids;
}

}  // namespace

void check_plan(Random& random) {
  const std::int64_t num_slots = random.below(random.one_in(8) ? 3000 : 60);
  const std::int64_t num_buckets = random.below(random.one_in(8) ? 600 : 20);
  const ExactArray<std::int64_t> ids = draw_ids(random, num_slots, num_buckets);
  const ExactArray<std::int64_t> order(num_slots), offsets(num_buckets + 1);
  const std::string sizes = std::to_string(num_slots) + " slots, " + std::to_string(num_buckets) + " buckets: ";
  const int status = headgate_sort_slots(ids.data(), num_slots, num_buckets, order.data(), offsets.data());
  require(status == HEADGATE_OK, sizes + "status is not HEADGATE_OK");

  std::int64_t place = 0;
  for (std::int64_t bucket = 0; bucket <= num_buckets; ++bucket) {
    require(offsets[bucket] == place, sizes + "offset of bucket " + std::to_string(bucket));
    for (std::int64_t slot = 0; slot < num_slots; ++slot) {
      const bool has_bucket = 0 <= ids[slot] && ids[slot] < num_buckets;
      if (bucket < num_buckets ? ids[slot] != bucket : has_bucket) continue;
      require(order[place] == slot, sizes + "order[" + std::to_string(place) + "]");
      ++place;
    }
  }
  require(headgate_sort_slots(nullptr, -1, 1, nullptr, nullptr) == HEADGATE_BAD_ARGUMENT, "-1 slots are not refused");
  require(headgate_sort_slots(nullptr, 0, -1, nullptr, nullptr) == HEADGATE_BAD_ARGUMENT, "-1 buckets are not refused");
}

}  // namespace fuzz
