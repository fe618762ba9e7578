// @ts-check
/* The page of an address that the app does not have: the frame alone. */

import { start } from "./frame.js";

start();
