// Lighthouse's accessibility audits of pages, for benchmarks/lighthouse.py: one Chromium for all of them.
// Reads {address, cookie, width, height, mobile} from each line of its input; writes {score, wrong} for each.
import {createInterface} from 'node:readline';
import {createRequire} from 'node:module';
import {pathToFileURL} from 'node:url';

const require = createRequire(process.argv[2] + '/');  // the folder in which Lighthouse is installed
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const {snapshot} = await load('lighthouse');
const puppeteer = (await load('puppeteer-core')).default;
const browser = await puppeteer.launch({executablePath: process.env.CHROME_PATH, args: ['--no-sandbox']});

async function audited({address, cookie, width, height, mobile}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.setViewport({width, height, isMobile: mobile, hasTouch: mobile});
  if (cookie) await page.setExtraHTTPHeaders({Cookie: cookie});
  await page.goto(address, {waitUntil: 'load', timeout: 60000});
  const {lhr} = await snapshot(page, {config: {extends: 'lighthouse:default', settings: {
    onlyCategories: ['accessibility'], formFactor: mobile ? 'mobile' : 'desktop',
    screenEmulation: {width, height, mobile, deviceScaleFactor: 1, disabled: true}}}});
  await context.close();
  const wrong = Object.values(lhr.audits)
    .filter((audit) => audit.scoreDisplayMode === 'binary' && audit.score < 1)
    .flatMap((audit) => (audit.details?.items ?? []).slice(0, 6).map((item) => `${audit.id}: ${item.node?.snippet}`));
  return {score: 100 * lhr.categories.accessibility.score, wrong};
}

for await (const line of createInterface({input: process.stdin})) {
  let answer;
  try {
    answer = await audited(JSON.parse(line));
  } catch (error) {
    answer = {score: 0, wrong: [String(error)]};
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
await browser.close();
