// Opens the explorer in Chromium as a developer does: chooses an organisation, runs the examples, and reads their answers. Prints what it saw
// as one JSON document. CORDON_EXPLORER is the link that `cordon dev` prints; CHROMIUM is the browser; SCREENSHOT is a file to write, or unset.
import { chromium } from 'playwright-core';

const { CORDON_EXPLORER: link, CHROMIUM: executablePath, SCREENSHOT: screenshot } = process.env;
const seen = { requests: [], problems: [], organisations: [], withoutToken: '', chart: '', search: '', drafted: '', signed: '' };

// Nothing but 127.0.0.1 has an address here: a request to elsewhere would fail, and it is recorded before it does.
const args = ['--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
const browser = await chromium.launch({ executablePath, args, chromiumSandbox: process.getuid() !== 0 });
try {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  context.on('request', request => seen.requests.push(request.url()));
  const page = await context.newPage();
  page.on('console', message => { if (message.type() === 'error') seen.problems.push(message.text()); });
  page.on('pageerror', error => seen.problems.push(`${error}`));
  await page.goto(link);

  const answer = async expected => {
    const response = page.locator('.graphiql-response .CodeMirror');
    await page.waitForFunction(
      word => document.querySelector('.graphiql-response .CodeMirror')?.CodeMirror.getValue().includes(word), expected);
    return response.evaluate(editor => editor.CodeMirror.getValue());
  };
  const run = async operation => {
    await page.locator('.graphiql-execute-button').click();
    if (operation) await page.getByRole('menuitem', { name: operation }).click();
  };
  // GraphiQL reads the operations of a tab's document a moment after the tab has been opened.
  const open = async name => {
    await page.locator('.graphiql-tab-button', { hasText: name }).click();
    await page.waitForTimeout(500);
  };

  await page.locator('.graphiql-execute-button').waitFor();
  await run();
  seen.withoutToken = await answer('errors');
  seen.organisations = await page.locator('#organisation option:not([value=""])').evaluateAll(all => all.map(one => one.value));
  await page.locator('#organisation').selectOption('lakeside');
  await run();
  seen.chart = await answer('birthDate');
  if (screenshot) await page.screenshot({ path: screenshot });

  await open('SearchAndWorkList');
  await run();
  seen.search = await answer('appointments');

  await open('FindPatient');
  await run('FindPatient');
  await answer('nodes');
  await run('DraftNote');
  seen.drafted = await answer('draftNote');
  await run('SignNote');
  seen.signed = await answer('signNote');
} catch (error) {
  seen.problems.push(`${error}`);
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
