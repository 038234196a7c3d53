// Package history keeps the receipts of tasks outside any batch: of single orders, of
// off-boardings and of what these have found. The receipts of batches are in package
// batch; kooworker history shows both.
//
// Workers write it and operators read it. It may import the vocabulary (package tasks),
// go-redis and helpers below internal, but neither asynq nor another part of enqueue. No
// other package knows how it is stored in Redis.
//
// # What is stored
//
// The receipts of a day (UTC) have two keys with one hash tag. Their names begin with
// kooworker:{history:<day>}:
//
//	receipts  list: one entry for each outcome, in the order in which they were written
//	users     string: three bytes for each of these, of a hash of the user
//
// Whoever looks for a user reads the string, and of the list only what is where the
// three bytes occur. Of 16 million other users one has the same bytes, so the receipts
// themselves are always asked. A list takes what many tasks add at once in a fifth of the
// time that a stream would take, and gives back the memory of what is forgotten.
//
// Both expire when the last receipt of the day was kept for as long as the workers say.
// So receipts go by the day, and none has a time to live of its own. A third key,
// kooworker:history:keep, says how long that is, for commands that write receipts.
//
// # Crashes
//
// A worker writes the receipt when KooDrive has answered, and before the task leaves its
// queue. So no task is done without a receipt. If the worker dies after KooDrive's answer
// and before the receipt, the task runs again, and its receipt says already_gone. If it
// dies after the receipt, the task runs again as well, and has a second receipt, which says
// already_gone. A batch has one state per task and would see this; here nothing tells one
// order from the next about the same device, so both receipts are shown.
package history
