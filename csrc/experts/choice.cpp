// The experts on a choice: makes the plan, then runs it.
#include <new>
#include <vector>

#include "elements.h"
#include "headgate.h"

namespace headgate {
namespace {

using Integers = std::vector<std::int64_t>;

// Rows sorted by expert and the way back to the tokens, as headgate_experts has them.
struct Plan {
  Integers slots, tokens, expert_offsets, order, token_offsets;
  std::vector<float> weights;
};

float weight_at(const headgate_choice& choice, std::int64_t slot) {
  if (choice.weights_dtype == HEADGATE_BFLOAT16) return widen(static_cast<const Bf16*>(choice.combine_weights)[slot]);
  if (choice.weights_dtype == HEADGATE_FLOAT16) return widen(static_cast<const Half*>(choice.combine_weights)[slot]);
  return static_cast<const float*>(choice.combine_weights)[slot];
}

int sort_ids(const headgate_choice& choice, std::int64_t num_slots, std::int64_t num_experts, Plan& plan) {
  plan.slots.resize(static_cast<std::size_t>(num_slots));
  plan.expert_offsets.resize(static_cast<std::size_t>(num_experts) + 1);
  const std::int64_t* ids = static_cast<const std::int64_t*>(choice.expert_ids);
  Integers wide;
  if (choice.ids_are_32_bits) {
    const std::int32_t* const narrow = static_cast<const std::int32_t*>(choice.expert_ids);
    wide.assign(narrow, narrow + num_slots);
    ids = wide.data();
  }
  return headgate_sort_slots(ids, num_slots, num_experts, plan.slots.data(), plan.expert_offsets.data());
}

void fill_rows(const headgate_choice& choice, std::int64_t num_tokens, std::int64_t num_rows, Plan& plan) {
  const std::int64_t top_k = choice.top_k;
  Integers row_of_slot(plan.slots.size(), -1);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const std::int64_t slot = plan.slots[static_cast<std::size_t>(row)];
    row_of_slot[static_cast<std::size_t>(slot)] = row;
    plan.tokens.push_back(slot / top_k);
    plan.weights.push_back(weight_at(choice, slot));
  }
  plan.token_offsets.push_back(0);
  for (std::int64_t token = 0; token < num_tokens; ++token) {
    for (std::int64_t k = 0; k < top_k; ++k) {
      const std::int64_t row = row_of_slot[static_cast<std::size_t>(token * top_k + k)];
      if (row >= 0) plan.order.push_back(row);
    }
    plan.token_offsets.push_back(static_cast<std::int64_t>(plan.order.size()));
  }
}

bool is_valid(const headgate_experts& e, const headgate_choice& choice) {
  return e.num_tokens >= 0 && e.num_experts >= 0 && choice.top_k >= 1 && choice.weights_dtype >= HEADGATE_FLOAT32 &&
         choice.weights_dtype <= HEADGATE_BFLOAT16;
}

}  // namespace
}  // namespace headgate

int headgate_experts_on_choice(const headgate_experts* experts, const headgate_choice* choice, void* y) {
  using namespace headgate;
  if (experts == nullptr || choice == nullptr || !is_valid(*experts, *choice)) return HEADGATE_BAD_ARGUMENT;
  try {
    Plan plan;
    const int status = sort_ids(*choice, experts->num_tokens * choice->top_k, experts->num_experts, plan);
    if (status != HEADGATE_OK) return status;
    headgate_experts planned = *experts;
    planned.num_rows = plan.expert_offsets.back();
    fill_rows(*choice, experts->num_tokens, planned.num_rows, plan);
    planned.token_of_row = plan.tokens.data();
    planned.expert_offsets = plan.expert_offsets.data();
    planned.row_order = plan.order.data();
    planned.token_offsets = plan.token_offsets.data();
    planned.row_weights = plan.weights.data();
    planned.slot_of_row = nullptr;
    return headgate_experts_forward(&planned, y, nullptr);
  } catch (const std::bad_alloc&) {
    return HEADGATE_OUT_OF_MEMORY;
  }
}
