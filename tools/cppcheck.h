/* SPDX-License-Identifier: Apache-2.0 */
/* Loops of yyjson, for cppcheck, which does not see that library's header. */
#define yyjson_arr_foreach(arr, idx, max, val) for (idx = 0, max = 1, val = NULL; idx < max; idx++)
#define yyjson_obj_foreach(obj, idx, max, key, val) for (idx = 0, max = 1, key = NULL, val = NULL; idx < max; idx++)
